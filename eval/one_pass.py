"""The one pass over the images: reconstruct each batch once, and show it to metrics, gallery and curve."""

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from ..common.distributed import gather_objects, rank
from .lengths.curve import LengthCurve
from .metrics.chosen import ChosenMetrics
from .progress import ImageProgress, number_of_images
from .reconstruction import Reconstruction, Shapes
from .report.gallery import Gallery, Picture, look_again


class OnePass:
    """After run() and join(): shapes, gallery, median, curve and skipped are those of all processes.

    shapes: None where no process had a readable image. curve: None for a fixed length.
    """

    def __init__(
        self,
        tokenizer: nn.Module,
        batches: Iterable[Mapping[str, Any]],
        *,
        metrics: ChosenMetrics,
        curve_images: int | None,
    ) -> None:
        self.batches, self.metrics, self.curve_images = batches, metrics, curve_images
        self.reconstruct = Reconstruction(tokenizer, device=metrics.device, rounding=metrics.protocol.rounding)
        self.dropout = getattr(tokenizer, "token_dropout", None) if curve_images != 0 else None
        self.gallery = Gallery(process=rank())
        self.shapes: Shapes | None = None
        self.curve: LengthCurve | None = None
        self.median: list[Picture] = []
        self.skipped: list[str] = []
        self.seconds = 0.0

    def run(self, *, progress: bool) -> None:
        started = time.perf_counter()
        with ImageProgress(self.batches, show=progress) as bar:
            for number, batch in enumerate(self.batches):
                self.skipped += batch.get("skipped", ())
                shown, keys = self.reconstruct(batch), list(batch["key"])
                if self.shapes is None:
                    self._begin(self.reconstruct.shapes(shown))
                pair, indices = (shown.reference, shown.pixels), shown.quantized.indices
                self.metrics.collection.update(*pair, unrounded=shown.unrounded, indices=indices, keys=keys)
                self.gallery.update(self.metrics.psnr.last, keys, *pair, number)
                if self.curve is not None:
                    self.curve.update(shown, keys, decode=partial(self.reconstruct.decode, batch))
                bar.advance(len(keys))
        self.seconds = time.perf_counter() - started - (self.curve.seconds if self.curve is not None else 0.0)

    def _begin(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.metrics.start(shapes.image_size, shapes.layout)
        if self.dropout is not None:
            counts = {"wanted": self.curve_images, "available": number_of_images(self.batches)}
            self.curve = LengthCurve(self.metrics, self.dropout, shapes=shapes, **counts)

    def join(self) -> None:
        """What is no state of a metric, over all processes."""
        shares = gather_objects((self.shapes, self.gallery, self.skipped))
        known = next((shapes for shapes, *_ in shares if shapes is not None), None)
        if self.shapes is None and known is not None:  # had no image, but its states join those of the others
            self._begin(known)
        self.gallery = Gallery.joined([share[1] for share in shares], process=rank())
        self.skipped = [line for share in shares for line in share[2]]
        if self.curve is not None:
            self.curve.join()
        own_median = [entry for entry in self.gallery.median() if entry[2] == self.gallery.process]
        own = look_again(self.batches, own_median, reconstruct=self.reconstruct)
        self.median = sorted((p for share in gather_objects(own) for p in share), key=lambda p: (p.psnr, p.key))

    @property
    def pictures(self) -> dict[str, list[Picture]]:
        return {"best": self.gallery.best, "median": self.median, "worst": self.gallery.worst}
