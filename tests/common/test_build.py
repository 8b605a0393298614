"""From YAML node to object: every mistake is one line that names the key."""

import pytest

from imtok.common.build import build, build_as
from imtok.common.errors import MissingWeights, UserError, errors_as_one_line, one_line

VQ = "imtok.tokenizers.quantizers.vq.VQ"


def test_given_arguments_are_checked_against_the_yaml() -> None:
    assert build({"_target_": VQ, "codebook_size": 8}, key="q", dim=4).dim == 4
    assert build({"_target_": VQ, "codebook_size": 8, "dim": 4}, key="q", dim=4).dim == 4
    with pytest.raises(UserError, match=r"q\.dim=5.*need 4"):
        build({"_target_": VQ, "dim": 5}, key="q", dim=4)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({}, "no _target_"),
        ({"_target_": VQ, "codebok_size": 8, "dim": 4}, "codebok_size.*did you mean 'codebook_size'"),
        ({"_target_": VQ}, r"part\.dim: VQ needs it"),
        ({"_target_": "imtok.tokenizers.quantizers.vq.VQQ"}, "did you mean 'VQ'"),
        ({"_target_": "imtok.nowhere.Class"}, "no module"),
        ({"_target_": VQ, "dim": 4, "_partial_": True}, "_partial_"),
        ({"_target_": VQ, "dim": 4, "codebook_size": 1}, r"part\.codebook_size=1"),
    ],
)
def test_mistakes_name_the_key(node, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        build(node, key="part")
    assert "\n" not in str(caught.value)


def test_helper_keys_never_reach_the_class() -> None:
    assert build({"_target_": VQ, "dim": 4, "tiny": {"codebook_size": 2}}, key="q").vocabulary == (1024,)


def test_one_line_and_exit_code(capsys, monkeypatch) -> None:
    with pytest.raises(SystemExit) as left, errors_as_one_line():
        raise UserError("data.root=/x: no such folder")
    assert left.value.code == 1
    assert capsys.readouterr().err == "imtok: data.root=/x: no such folder\n"
    monkeypatch.setenv("IMTOK_DEBUG", "1")
    with pytest.raises(UserError), errors_as_one_line():
        raise UserError("x")


def test_system_errors_carry_a_remedy() -> None:
    assert "ckpt_path=last" in one_line(OSError(28, "No space left on device", "/runs/x"))
    assert "choose another folder" in one_line(OSError(17, "File exists", "/runs/x"))
    assert "/runs/x" in one_line(OSError(30, "Read-only file system", "/runs/x"))


def test_a_strangers_config_opens_no_file() -> None:
    tower = {"_target_": "imtok.tokenizers.towers.vit.ViTTower", "image_size": 32, "width": 32, "depth": 1}
    node = tower | {"num_heads": 2, "pretrained": "nowhere.pt"}
    with pytest.raises(MissingWeights, match=r"^tower\.pretrained=nowhere\.pt: no such file"):
        build(node, key="tower")
    assert build(node, key="tower", trusted=False).width == 32


def test_an_error_of_a_nested_part_gets_its_place_once() -> None:
    node = {
        "_target_": "imtok.losses.adversarial.adversary.Adversary",
        "discriminator": {"_target_": "imtok.losses.adversarial.dino.DinoDiscriminator", "weights": "nowhere"},
    }
    with pytest.raises(MissingWeights, match=r"^adversary\.discriminator\.weights=nowhere: no such file"):
        build(node, key="adversary")


class Rate:
    def __init__(self, *, total: int, shape: str = "flat", peak: float = 1.0) -> None:
        if peak <= 0:
            raise ValueError(f"peak={peak}: above 0")
        self.total, self.shape, self.peak = total, shape, peak


def test_a_node_whose_class_is_always_the_same() -> None:
    assert vars(build_as(Rate, {"peak": 2}, key="a.rate", total=5)) == {"total": 5, "shape": "flat", "peak": 2}
    assert build_as(Rate, None, key="a.rate", total=5).peak == 1.0


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"pek": 1}, r"^a\.rate\.pek=1: Rate has no such setting; did you mean 'peak'"),
        ({}, r"^a\.rate\.total: Rate needs it"),
        ({"total": "x"}, r"^a\.rate\.total=x: Rate takes a whole number"),
        ({"total": 1, "peak": "1e-4"}, r"^a\.rate\.peak=1e-4: .*a number \(YAML reads 1e-4 as text, 1\.0e-4 as"),
        ({"total": 1, "peak": -1}, r"^a\.rate\.peak=-1: above 0"),
        ("fast", r"^a\.rate=fast: takes settings by name"),
        ([1], r"^a\.rate=\[1\]: takes settings by name"),
    ],
)
def test_its_mistakes_name_the_key_too(node, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_as(Rate, node, key="a.rate")
