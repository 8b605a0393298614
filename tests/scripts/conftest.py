"""A tiny exported tokenizer and a folder of odd pictures."""

from pathlib import Path

import pytest


def make_tokenizer(codebook_size: int = 32, image_size: int = 32):
    import torch

    from imtok.tokenizers.tokenizer import Tokenizer

    torch.manual_seed(0)
    sizes = {"channels": 32, "channel_multipliers": [1, 1, 1], "blocks_per_level": 1, "z_channels": 8}
    tokenizer = Tokenizer(
        image_size=image_size,
        encoder={"_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder", "dim": 8, **sizes},
        quantizer={"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": codebook_size},
        decoder={"_target_": "imtok.decoders.cnn.CNNDecoder", **sizes},
    )
    torch.nn.init.normal_(tokenizer.quantizer.codebook, std=0.5)  # so that many codes are chosen
    return tokenizer.eval()


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    from imtok.tokenizers.hub import save_pretrained

    return save_pretrained(make_tokenizer(), tmp_path_factory.mktemp("model") / "tokenizer")


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Seven pictures in two class folders, of several formats and sizes, and one that is none."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    root = tmp_path / "pictures, with = odd ~ name"
    for number in range(7):
        folder = root / ("cats" if number < 4 else "dogs/deep")
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((40 + number, 33))
        coarse.save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
    (root / "cats" / "broken.png").write_bytes(b"not a picture")
    return root
