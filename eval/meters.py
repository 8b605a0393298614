"""Everything that is summed during the one pass, and how the sums of several processes join."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..common.pixels import to_model_range
from ..common.types import IndexSegment
from .metrics.codebook import CodebookStatistics
from .metrics.frechet import FeatureMoments, frechet_distance
from .metrics.inception_score import InceptionScore
from .metrics.l1 import PixelError
from .metrics.psnr import Psnr
from .metrics.ssim import Ssim
from .networks import Networks
from .protocol import Protocol


class Lpips:
    """Mean distance of one network over images."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def update(self, distances: Tensor) -> None:
        self.values.append(distances.detach().flatten())

    def merge(self, other: "Lpips") -> None:
        self.values += other.values

    def mean(self) -> float:
        return torch.cat([v.cpu() for v in self.values]).double().mean().item()


class Meters:
    """Holds no network, so it travels between processes as it is."""

    def __init__(self, *, protocol: Protocol, networks: Networks, layout: Sequence[IndexSegment]) -> None:
        self.protocol = protocol
        self.images = 0
        self.psnr = Psnr(cap=protocol.psnr_cap)
        self.ssim = Ssim(kind=protocol.ssim_window, data_range=protocol.ssim_data_range)
        self.l1 = PixelError()
        self.lpips = {key: Lpips() for key in networks.lpips}
        extractor, wanted = networks.extractor, protocol.metrics
        self.fid = self.scores = None
        if extractor is not None and "rfid" in wanted:
            self.fid = (FeatureMoments(extractor.width), FeatureMoments(extractor.width))
        if extractor is not None and extractor.has_logits and "inception_score" in wanted:
            options = {"splits": protocol.inception_splits, "seed": protocol.inception_seed}
            self.scores = (InceptionScore(**options), InceptionScore(**options))
        self.codebook = CodebookStatistics(layout) if layout and "codebook" in wanted else None

    def update(
        self,
        *,
        reference: Tensor,
        reconstruction: Tensor,
        unrounded: Tensor,
        indices: Mapping[str, Tensor],
        keys: Sequence[str],
        networks: Networks,
    ) -> np.ndarray:
        """reference, reconstruction: uint8. unrounded: the clamped [-1, 1] reconstruction. Returns PSNR per image."""
        wanted = self.protocol.metrics
        self.images += len(reference)
        if self.codebook is not None:
            self.codebook.update(indices)
        if networks.lpips:
            pair = to_model_range(reference), to_model_range(reconstruction)
            for key, network in networks.lpips.items():
                self.lpips[key].update(network(*pair))
        if networks.extractor is not None:
            self._update_features(reference, reconstruction, unrounded, keys, networks.extractor)
        if reference.device.type == "mps":  # no float64 there
            reference, reconstruction = reference.cpu(), reconstruction.cpu()
        if "ssim" in wanted:
            self.ssim.update(reference, reconstruction)
        if "l1" in wanted:
            self.l1.update(reference, reconstruction)
        return self.psnr.update(reference, reconstruction)

    def _update_features(
        self, reference: Tensor, reconstruction: Tensor, unrounded: Tensor, keys: Sequence[str], extractor: Callable
    ) -> None:
        sides = (reference, reconstruction)
        if extractor.wants_floats:
            sides = (to_model_range(reference), unrounded)
        for side, images in enumerate(sides):
            features, logits = extractor(images)
            if self.fid is not None:
                self.fid[side].update(features)
            if self.scores is not None:
                self.scores[side].update(logits, keys)

    def merge(self, other: "Meters") -> None:
        self.images += other.images
        for name in ("psnr", "ssim", "l1"):
            getattr(self, name).merge(getattr(other, name))
        for key, meter in self.lpips.items():
            meter.merge(other.lpips[key])
        for name in ("fid", "scores"):
            for mine, theirs in zip(getattr(self, name) or (), getattr(other, name) or (), strict=True):
                mine.merge(theirs)
        if self.codebook is not None:
            self.codebook.merge(other.codebook)

    def to_cpu(self) -> "Meters":
        for meter in (*(self.fid or ()), *(self.scores or ())):
            meter.to_cpu()
        for meter in (self.ssim, self.l1):
            meter.sum = float(meter.sum)
        for meter in self.lpips.values():
            meter.values = [v.cpu() for v in meter.values]
        if self.codebook is not None:
            self.codebook.to_cpu()
        return self

    def frechet(self) -> float | None:
        return frechet_distance(*self.fid) if self.fid is not None and self.images > 1 else None
