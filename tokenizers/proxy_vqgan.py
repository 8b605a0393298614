"""The frozen MaskGIT-VQGAN whose codes TiTok's first stage predicts."""

from collections.abc import Sequence

import torch
from torch import nn

from ..common.build import build
from ..common.weights import Published, Weights, check_state, find, read
from .hub import WEIGHTS_FILE, from_pretrained
from .quantizers.vq import VQ
from .tokenizer import Tokenizer

PUBLISHED = Published(hub="fun-research/TiTok", file="maskgit-vqgan-imagenet-f16-256.bin")


def proxy_vqgan(
    *,
    weights: str,
    setting: str,
    codebook_size: int,
    code_dim: int,
    channels: int,
    channel_multipliers: Sequence[int],
    blocks_per_level: int,
) -> tuple[Tokenizer, Weights]:
    """weights: "pretrained", "random" (seeded: the same wherever it is made), a file, or an imtok folder.

    setting: the user's name for `weights`, for error lines.
    """
    levels = {
        "channels": channels,
        "channel_multipliers": list(channel_multipliers),
        "blocks_per_level": blocks_per_level,
    }
    node = {
        "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
        "image_size": 2 ** (len(channel_multipliers) - 1),
        "encoder": {"_target_": "imtok.tokenizers.encoders.cnn_maskgit.CNNMaskgitEncoder", "dim": code_dim, **levels},
        "quantizer": {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": codebook_size},
        "decoder": {"_target_": "imtok.decoders.cnn_maskgit.CNNMaskgitDecoder", **levels},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: Tokenizer = build(node, key=setting)
        assert isinstance(made.quantizer, VQ)
        nn.init.normal_(made.quantizer.codebook)  # as far apart as what the random encoder gives, not all one point
    found = find(weights, published=PUBLISHED, setting=setting, within=(WEIGHTS_FILE,))
    if found.path is not None:
        named = f"{setting}={weights}"
        if (found.path.parent / "config.json").is_file() and found.path.name == WEIGHTS_FILE:
            state = from_pretrained(found.path.parent).state_dict()
        else:
            from .released import find as family

            state = family("maskgit_vqgan").import_state(read(found.path, source=named))[0].state_dict()
        check_state(made.state_dict(), state, source=named, network="a MaskGIT-VQGAN of the decoder's sizes")
        made.load_state_dict(state)
    return made.requires_grad_(False).eval(), found
