import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from imtok.common.errors import UserError
from imtok.configs.compose import apply_tiny, command_line, compose_config


def test_a_plain_resolved_dict():
    config = compose_config("train", ["data.image_size=128", "seed=3"])
    assert config["tokenizer"]["image_size"] == 128 and config["name"] == "quickstart" and "hydra" not in config


def test_a_leading_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/an artist")
    config = compose_config("train", ["data=folder", "data.root=~/my photos", "init_from=~"])
    assert config["data"]["source"]["root"] == "/home/an artist/my photos" and config["init_from"] == "/home/an artist"
    with pytest.raises(UserError, match="sead"):  # in front of a key it still takes the key away
        compose_config("train", ["~sead"])


def test_tiny_yields_to_the_command_line():
    tiny = compose_config("train", ["debug=tiny"])
    assert tiny["trainer"]["max_updates"] == 2 and tiny["weights"] == "random"
    assert tiny["tokenizer"]["encoder"]["channel_multipliers"] == [1, 1]
    given = ["debug=tiny", "trainer.max_updates=5", "tokenizer.encoder.channel_multipliers=[1,2]", "weights=pretrained"]
    by_hand = compose_config("train", given)
    assert by_hand["trainer"]["max_updates"] == 5 and by_hand["weights"] == "pretrained"
    assert by_hand["tokenizer"]["encoder"]["channel_multipliers"] == [1, 2]
    assert by_hand["tokenizer"]["decoder"]["channel_multipliers"] == [1, 1]


def test_tiny_leaves_alone_what_is_typed_within_its_values_and_what_is_not_there():
    def tiny(*words):
        sets = {"a.b": {"x": 1, "y": 1}, "there": 1, "absent": 1, "gone.c": 1}
        cfg = OmegaConf.create({"debug": {"sets": sets}, "a": {"b": {"x": 5, "y": 5}, "bc": 5}, "there": 5})
        apply_tiny(cfg, words)
        del cfg["debug"]
        return OmegaConf.to_container(cfg)

    small = {"a": {"b": {"x": 1, "y": 1}, "bc": 5}, "there": 1}
    assert tiny() == tiny("a.bc=5", "x=5", "b.x=5") == small
    assert tiny("a.b.x=5") == tiny("+a.b.x=5") == small | {"a": {"b": {"x": 5, "y": 5}, "bc": 5}}
    assert tiny("there=5") == small | {"there": 5}


def test_tiny_reaches_what_depends_on_it():
    assert compose_config("train", ["debug=tiny", "loss=[l1,lpips]"])["loss"]["lpips"]["term"]["weights"] == "random"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tokenizer.quantizr.dim=3", r"tokenizer\.quantizr\.dim=3: no such key; did you mean 'tokenizer\.quantizer'"),
        ("trainer.max_update=3", r"did you mean 'trainer\.max_updates'"),
        ("experiment=quikstart", r"experiment=quikstart: no such file; did you mean 'quickstart'"),
        (
            "experiment=/home/me/my.yaml",
            r"^experiment=/home/me/my\.yaml: a name is wanted here.* --config-dir DIR experiment=my,",
        ),
        ("experiment=/home/me/experiment/my.yaml", r"give --config-dir /home/me experiment=my$"),
        ("tokenizer/quantiser=vq", "^tokenizer/quantiser: no such config group; did you mean 'tokenizer/quantizer'"),
        ("loss.lpips.weight=1", r"^loss\.lpips\.weight=1: no such key; \+loss=lpips adds it$"),
        ("tokenizer.encoder.attention_heads=1", "did you mean"),
        ("tokenizer/quantizer=vqq", r"tokenizer/quantizer=vqq: no such file; did you mean 'vq'"),
        ("seed=[1", r"seed=\[1: not readable as key=value"),
        ("~sead", "sead: no such key; did you mean 'seed'"),
        ("seed=${nowhere}", "nowhere"),
        ("init_from=???", "init_from: needs a value"),
        ("seed=x", "^seed=x: a whole number$"),
        ("seed=-1", "^seed=-1: 0 or more$"),
        ("weights=rand", "^weights=rand: one of pretrained, random$"),
        ("freeze=encoder", "^freeze=encoder: a list"),
        ("evaluate_after=perhaps", "^evaluate_after=perhaps: true or false$"),
    ],
)
def test_errors_name_the_key_in_one_line(override, said):
    with pytest.raises(UserError, match=said):
        compose_config("train", [override])


def test_the_words_of_a_command(tmp_path):
    (tmp_path / "it's mine" / "experiment").mkdir(parents=True)
    (tmp_path / "it's mine" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    folder = tmp_path / "it's mine"
    for flag in (["--config-dir", str(folder)], [f"--config-dir={folder}"]):
        words = command_line(["experiment=mine", *flag, "init_from=~/x"], command="plan")
        config = compose_config("train", words)
        assert config["seed"] == 7 and config["name"] == "mine" and config["init_from"].endswith("/x")
    assert command_line(["--cfg", "job", "~sead"], command="train", flags=["--cfg"]) == ["--cfg", "job", "~sead"]
    for wrong, said in (
        (["--cfg", "job"], "--cfg: settings are key=value"),
        (["quickstart"], "'quickstart': `imtok plan` takes key=value"),
        (["--config-dir"], "--config-dir=: no such folder"),
        (["--config-dir", "nowhere"], "--config-dir=nowhere: no such folder"),
    ):
        with pytest.raises(UserError, match=said):
            command_line(wrong, command="plan")


def test_neither_torch_nor_lightning_is_needed_to_compose_or_to_help():
    code = (
        "import sys; from imtok.configs.compose import compose_config; compose_config(); "
        "from imtok.train import main; main(['--help']); "
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout
