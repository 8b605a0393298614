"""The frozen MaskGIT-VQGAN whose codes a first stage predicts: from its published file, a folder of ours, or random."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from ..common.build import build
from ..common.errors import MissingWeights, UserError
from .tokenizer import Tokenizer

HUB_ID, HUB_FILE = "fun-research/TiTok", "maskgit-vqgan-imagenet-f16-256.bin"


def proxy_vqgan(
    *,
    weights: str,
    setting: str,
    codebook_size: int,
    code_dim: int,
    channels: int,
    channel_multipliers: Sequence[int],
    blocks_per_level: int,
    like: nn.Module | None = None,
) -> Tokenizer | None:
    """weights: "pretrained", "random" (seeded: the same wherever it is made), a file, or an imtok folder.

    setting: how the user names `weights`, for error lines. like: a module that only measures (tensors without content)
    has no use for weights, and the answer is None.
    """
    if like is not None and any(isinstance(p, FakeTensor) or p.is_meta for p in like.parameters()):
        return None
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
        made = build(node, key=setting)
        nn.init.normal_(made.quantizer.codebook)  # as far apart as what the random encoder gives, not all one point
    if weights != "random":
        state = _read(weights, setting).state_dict()
        own = made.state_dict()
        wrong = [k for k in own if k not in state or state[k].shape != own[k].shape]
        if wrong or set(state) - set(own):
            name = (wrong or sorted(set(state) - set(own)))[0]
            raise UserError(f"{setting}={weights}: not a MaskGIT-VQGAN of the decoder's sizes ({name})")
        made.load_state_dict(state)
    return made.requires_grad_(False).eval()


def _read(weights: str, setting: str) -> Tokenizer:
    from .hub import from_pretrained
    from .released import find, read_state_dict

    if weights == "pretrained":
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(HUB_ID, HUB_FILE, etag_timeout=5))
        except Exception as error:  # the hub client raises a dozen unrelated types
            raise MissingWeights(
                f"{setting}=pretrained: {HUB_FILE} is not here and huggingface.co/{HUB_ID} gave no copy "
                f"({type(error).__name__}); use {setting}=PATH, or random to try things"
            ) from error
    else:
        path = Path(weights).expanduser()
        if not path.exists():
            raise UserError(f"{setting}={weights}: no such file or folder; give {HUB_FILE}, or an imtok folder of it")
    if path.is_dir():
        return from_pretrained(path)
    return find("maskgit_vqgan").import_state(read_state_dict(path))[0]
