"""The choices of an evaluation protocol, which metrics read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_METRICS = ("psnr", "ssim", "l1", "lpips_vgg", "lpips_alex", "rfid", "inception_score", "codebook")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Every choice that can change a number, with the defaults of `tok-eval/v1`."""

    name: str = "tok-eval/v1"
    images: str = "imagenet/val"  # only on these, and all of them, a Frechet distance may be called rFID
    image_count: int = 50_000
    crop: str = "ADM centre crop"  # repeated exact box halving, bicubic, floor-centred (Dhariwal & Nichol 2021)
    rounding: str = "round"  # reference and clamped reconstruction to uint8, once
    extractor: str = "inception-2015"
    fid_pixels: str = "uint8"  # float: unrounded [0, 1] through 2x - 1, as pytorch-fid scripts feed tensors
    fid_resize: str = "tf1_bilinear"
    psnr_cap: float = 100.0
    ssim_window: str = "gaussian11"  # sigma 1.5, biased; uniform7: sample covariance
    ssim_data_range: float = 255.0  # 510: the "data_range=2.0 on [0, 1]" of the LlamaGen lineage
    inception_splits: int = 10
    inception_seed: int = 0
    metrics: tuple[str, ...] = DEFAULT_METRICS  # names of configs/metric
    probes: str | tuple[str, ...] = "auto"  # auto: what data and model allow; or names, whose absence is then explained
    probe_images: int = 2048  # training images that probes are fitted on; every number of theirs says how many
    inception: str = "pretrained"  # pretrained | FILE | random
    lpips_vgg: str = "pretrained"
    lpips_alex: str = "pretrained"
    weights: str = "pretrained"  # of the networks that have no key here
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of metrics, by their names
    small: bool = False  # the metrics' `tiny:` values, to see that everything works
