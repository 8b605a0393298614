import re
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch.distributed import TCPStore

from imtok.common.errors import UserError
from imtok.configs import compose
from imtok.configs.compose import apply_tiny, command_line, compose_config, run_stamp


def test_a_plain_resolved_dict():
    config = compose_config("train", ["data.image_size=128", "seed=3"])
    assert config["tokenizer"]["image_size"] == 128 and config["name"] == "quickstart" and "hydra" not in config


def test_a_leading_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/an artist")
    config = compose_config("train", ["data=folder", "data.root=~/my photos", "init_from=~"])
    assert config["data"]["source"]["root"] == "/home/an artist/my photos" and config["init_from"] == "/home/an artist"
    with pytest.raises(UserError, match="sead"):  # in front of a key it still takes the key away
        compose_config("train", ["~sead"])


@pytest.mark.parametrize(("name", "rule"), [("vqgan_f16_1024", 4.5e-6), ("xqgan_vq_4096", 3e-5 / 128)])
def test_a_learning_rate_that_follows_the_batch(name, rule):
    published = compose_config("train", [f"experiment={name}"])
    for words, images in (([], published["data"]["batch_size"]), (["data.batch_size=24"], 24)):
        found = compose_config("train", [f"experiment={name}", *words])
        assert found["optimizer"]["lr"] == pytest.approx(rule * images, rel=1e-5)
    by_hand = compose_config("train", [f"experiment={name}", "data.batch_size=24", "optimizer.lr=0.5"])
    assert by_hand["optimizer"]["lr"] == 0.5
    with pytest.raises(UserError, match=r"data.batch_size=many: a whole number"):
        compose_config("train", [f"experiment={name}", "data.batch_size=many"])


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


def test_tiny_sets_no_node_that_is_not_there_and_may_refer_to_others():
    assert "trainer" not in compose_config("evaluate", ["debug=tiny"])
    encoder = compose_config("train", ["debug=tiny", "tokenizer.encoder.tiny.z_channels=${tokenizer.encoder.channels}"])
    assert encoder["tokenizer"]["encoder"]["z_channels"] == encoder["tokenizer"]["encoder"]["channels"] == 32


def test_what_the_command_line_sets_inside_a_node_keeps_the_node():
    def tiny(*overrides: str) -> object:
        cfg = OmegaConf.create({"debug": {"sets": {"a.b": {"c": 1}}}, "a": {"b": {"c": 2}}})
        apply_tiny(cfg, overrides)
        return cfg.a.b.c

    assert tiny() == tiny("a.bb=3") == tiny("a.bb.c=3") == tiny("a=3") == 1
    assert tiny("a.b={c: 2}") == tiny("a.b.c=2") == tiny("+a.b.c=2") == 2


@pytest.mark.parametrize(
    ("key", "least", "said"),
    [("max_images", 1, "1 or more, null for all"), ("curve_images", 0, "0 or more, null for all")],
)
def test_numbers_of_images(key, least, said):
    assert compose_config("evaluate", [f"{key}={least}"])[key] == least
    assert compose_config("evaluate", [f"{key}=null"])[key] is None
    with pytest.raises(UserError, match=f"^{key}={least - 1}: {said}$"):
        compose_config("evaluate", [f"{key}={least - 1}"])


def test_a_mistyped_key_is_looked_for_in_the_chosen_group():
    with pytest.raises(
        UserError, match=r"did you mean 'tokenizer\.quantizer\.levels'\? \(\+key=value adds a new one\)"
    ):
        compose_config("train", ["tokenizer/quantizer=fsq", "data.image_size=64", "tokenizer.quantizer.levls=[8,8]"])
    with pytest.raises(UserError, match="seed is a value, not a group of settings"):
        compose_config("train", ["seed.x=1"])


def test_ranks_under_torchrun_share_the_stamp_of_rank_0(monkeypatch):
    server = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=5), wait_for_workers=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"hydra\.run\.dir: under this launcher"):
        run_stamp.__wrapped__()
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port)
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    server.set("imtok/run_stamp/0", "of another rank")
    monkeypatch.setenv("RANK", "1")
    assert run_stamp.__wrapped__() == "of another rank"
    monkeypatch.setenv("RANK", "0")
    stamp = run_stamp.__wrapped__()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", stamp)
    assert server.get("imtok/run_stamp/0").decode() == stamp
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # a restarted run takes a new folder
    assert run_stamp.__wrapped__() and server.get("imtok/run_stamp/1")


def test_one_process_needs_no_launcher_and_several_of_slurm_name_a_folder(monkeypatch):
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    assert re.fullmatch(r"[\d_-]{19}", run_stamp.__wrapped__())
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "1")
        assert re.fullmatch(r"[\d_-]{19}", run_stamp.__wrapped__())
        monkeypatch.setenv(name, "2")
        with pytest.raises(UserError, match=r"add hydra\.run\.dir=DIR"):
            run_stamp.__wrapped__()
        monkeypatch.delenv(name)


def test_a_composition_leaves_hydra_as_it_was_and_names_the_users_folders(tmp_path):
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        for words in ([], ["sead=1"]):
            with suppress(UserError):
                compose_config("train", words)
            assert GlobalHydra.instance().config_loader().get_search_path().get_path()[1].path.endswith(str(tmp_path))
    assert not GlobalHydra.instance().is_initialized() and compose.folders_of_yaml == []
    compose_config("train", [f"hydra.searchpath=['file://{tmp_path}']"])
    assert compose.folders_of_yaml == [tmp_path]
    assert not GlobalHydra.instance().is_initialized()


def test_override_keys_are_those_that_are_set():
    words = ["a.b=1", "+a/b@c.d=x", "~e", "++f=g=h", "-m", "--cfg", "i"]
    assert compose.override_keys(words) == ["a.b", "a/b", "e", "f", "i"]
