"""`imtok quantize` on small continuous tokenizers."""

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.scripts.quantize import main
from imtok.tokenizers.hub import from_pretrained, save_pretrained

QUANTIZERS = "imtok.tokenizers.quantizers"
CONTINUOUS = {
    "kl": {"_target_": f"{QUANTIZERS}.kl.KL", "latent_dim": 5},
    "kl of the encoder": {"_target_": f"{QUANTIZERS}.kl.KL", "project": False},
    "identity": {"_target_": f"{QUANTIZERS}.identity.Identity"},
}


def continuous(tokenizer_node, folder, kind="kl"):
    node = {**tokenizer_node, "quantizer": CONTINUOUS[kind]}
    return save_pretrained(build(node, key="tokenizer"), folder / "continuous", facts={"experiment": "small"})


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_the_folder_is_a_discrete_tokenizer_of_the_same_pictures(
    tokenizer_node, tmp_path, photos, kind, capsys
) -> None:
    given = continuous(tokenizer_node, tmp_path, kind)
    words = ["--model", str(given), "--images", str(photos), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "fine"), "--bits", "10"]) == 0
    assert main([*words, "--out", str(tmp_path / "coarse"), "--bits", "2", "--per-channel"]) == 0
    before, fine, coarse = (from_pretrained(tmp_path / name) for name in ("continuous", "fine", "coarse"))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    indices = fine.tokenize(images)
    channels = before.quantizer.code_dim
    assert indices.shape == (2, 64, channels)
    assert fine.bits_per_image == 64 * channels * 10
    assert torch.equal(fine.detokenize(indices), fine.reconstruct(images))
    assert float(fine.quantizer.spread[0]) != 1.0
    apart = [float((t.reconstruct(images) - before.reconstruct(images)).abs().mean()) for t in (fine, coarse)]
    assert apart[0] < 0.1 * apart[1]
    assert "PSNR" in capsys.readouterr().out
    assert coarse.config["quantizer"]["per_channel"] is True


def test_generated_pictures_fit_too(tokenizer_node, tmp_path) -> None:
    given = continuous(tokenizer_node, tmp_path)
    words = ["--model", str(given), "--generated", "--limit", "4", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    with pytest.raises(UserError, match="--overwrite"):
        main(words)


def test_discrete_tokenizers_are_refused(tokenizer_node, tmp_path) -> None:
    save_pretrained(build(tokenizer_node, key="tokenizer"), tmp_path / "vq")
    with pytest.raises(UserError, match="VQ, is discrete already"):
        main(["--model", str(tmp_path / "vq"), "--generated", "--out", str(tmp_path / "out"), "--device", "cpu"])


def test_impossible_bits(tokenizer_node, tmp_path) -> None:
    given = continuous(tokenizer_node, tmp_path)
    with pytest.raises(ValueError, match="bits=40"):
        main(["--model", str(given), "--generated", "--out", str(tmp_path / "o"), "--bits", "40", "--device", "cpu"])
