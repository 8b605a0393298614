"""Metrics that compare sets of images in the features of a network; all with the same extractor share its pass."""

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from .base import Metric, as_bytes
from .choices import Choices
from .inception import InceptionExtractor
from .networks import Network
from .random_convolutions import RandomConvolutions

SIDES = ("reference", "reconstruction")
INCEPTION = "inception-2015"  # the one extractor that a result's key does not name


def number_of(key: str, *, seed: int) -> int:
    """64 bits that follow from an image's key and the seed only: a shuffle that no order of files can spoil."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest(), "little")


def extractor(
    name: str = INCEPTION, *, pixels: str = "uint8", resize: str = "tf1_bilinear", weights: str = "pretrained"
) -> Network:
    """name: inception-2015 or randconv-64. pixels: uint8, or float for reconstructions that were not rounded.

    resize: how Inception's 299 pixels are reached. weights: Inception's: pretrained, random, or the path of its file.
    """
    if name == RandomConvolutions.label:
        return Network.of(RandomConvolutions, pixels=pixels)
    if name != INCEPTION:
        raise ValueError(f"extractor={name}: {INCEPTION} or {RandomConvolutions.label}")
    return Network.of(InceptionExtractor, pixels=pixels, resize=resize, weights=weights)


default_extractor = extractor  # under a name that the argument does not hide


class FeatureMetric(Metric):
    """extractor: of `extractor()`; the 2015 Inception if not given. keeps_rows: the features of all images."""

    of_sets = True
    keeps_rows: ClassVar[bool] = True
    protocol_fields = {"extractor": "feature_network"}

    def __init__(self, *, extractor: Network | None = None, **options: Any) -> None:
        super().__init__(needs=extractor or default_extractor(), **options)
        self.numbered = 0
        for side in SIDES if self.keeps_rows else ():
            self.add_rows(f"{side}_rows")

    @property
    def extractor(self) -> Any:
        return self.network.module

    def update(
        self,
        reference: Tensor,
        reconstruction: Tensor,
        *,
        unrounded: Tensor | None = None,
        keys: Sequence[str] | None = None,
    ) -> None:
        """keys: what identifies images whatever their order; where nobody names them, their numbers do."""
        first, self.numbered = self.numbered, self.numbered + len(reference)
        named = [str(number) for number in range(first, self.numbered)] if keys is None else list(keys)
        for side, found in zip(SIDES, self.features(reference, reconstruction, unrounded), strict=True):
            self.add(side, *found, named)

    def features(self, reference: Tensor, reconstruction: Tensor, unrounded: Tensor | None) -> list[tuple[Any, Any]]:
        """(features, logits) of both sides, on the states' device."""
        shown = as_bytes(reconstruction)
        if self.extractor.wants_floats and (unrounded is not None or reconstruction.is_floating_point()):
            shown = unrounded if unrounded is not None else reconstruction
        found = [self.network(images) for images in (as_bytes(reference), shown)]
        return [(rows.to(self.device), None if logits is None else logits.to(self.device)) for rows, logits in found]

    def add(self, side: str, features: Tensor, logits: Tensor | None, keys: Sequence[str]) -> None:
        """A batch of one of SIDES, on the states' device."""
        getattr(self, f"{side}_rows").append(features)

    def key(self, base: str) -> str:
        label = self.extractor.label
        return base if label == INCEPTION else f"{base}[{label}]"

    def row_shape(self, name: str) -> tuple[int, ...]:
        return (self.extractor.width,)

    def provenance(self) -> dict[str, Any]:
        return {"extractor": self.extractor.label, "extractor_sha256": self.extractor.sha256}

    def describe(self, protocol: Choices) -> list[tuple[str, str]]:
        features = "seeded random convolutions, 64-d: no perceptual meaning"
        if protocol.extractor == INCEPTION:
            scale = "uint8, (x - 128) / 128" if protocol.fid_pixels == "uint8" else "unrounded floats, 2x - 1"
            resize = protocol.fid_resize.replace("_", " ")
            features = f"2015 TensorFlow Inception, 2048-d pool, fp32; input {scale}, {resize} to 299"
        return [("FID features", features), *self.words()]
