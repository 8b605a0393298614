"""Best, median and worst images by PSNR, with their reconstructions.

Best and worst are kept while the pass runs, three of each. Which images are in the middle is known only at its end, so
those few are read and reconstructed once more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from ..reconstruction import Reconstructed

KEPT = 3


@dataclass(frozen=True)
class Picture:
    key: str
    psnr: float
    reference: Tensor  # uint8 [3, H, W]
    reconstruction: Tensor


class Gallery:
    def __init__(self, *, process: int = 0) -> None:
        self.process = process
        self.best: list[Picture] = []
        self.worst: list[Picture] = []
        self.seen: list[tuple[float, str, int, int]] = []  # psnr, key, process, batch number

    def update(
        self, values: np.ndarray, keys: list[str], reference: Tensor, reconstruction: Tensor, batch: int
    ) -> None:
        self.seen += [(float(v), k, self.process, batch) for v, k in zip(values, keys, strict=True)]
        order = np.argsort(values, kind="stable")
        # A batch rarely holds a new extreme once the pass is under way: then nothing is copied.
        for shelf, rows, sign in ((self.worst, order[:KEPT], 1), (self.best, order[::-1][:KEPT], -1)):
            for row in rows:
                if len(shelf) == KEPT and sign * values[row] >= sign * shelf[-1].psnr:
                    break
                shelf.append(_picture(keys[row], values[row], reference[row], reconstruction[row]))
                shelf.sort(key=lambda p: (sign * p.psnr, p.key))
                del shelf[KEPT:]

    @classmethod
    def joined(cls, galleries: Sequence["Gallery"], *, process: int) -> "Gallery":
        """That of all processes."""
        whole = cls(process=process)
        whole.seen = [entry for gallery in galleries for entry in gallery.seen]
        whole.worst = sorted((p for g in galleries for p in g.worst), key=lambda p: (p.psnr, p.key))[:KEPT]
        whole.best = sorted((p for g in galleries for p in g.best), key=lambda p: (-p.psnr, p.key))[:KEPT]
        return whole

    def median(self) -> list[tuple[float, str, int, int]]:
        """The up to three middle images of the sorted list."""
        start = max(0, len(self.seen) - KEPT) // 2
        return sorted(self.seen)[start : start + KEPT]


def _picture(key: str, psnr: float, reference: Tensor, reconstruction: Tensor) -> Picture:
    return Picture(key, float(psnr), reference.cpu().clone(), reconstruction.cpu().clone())


def look_again(
    batches: Iterable[Mapping[str, Any]],
    wanted: list[tuple[float, str, int, int]],
    *,
    reconstruct: Callable[[Mapping[str, Any], list[int]], Reconstructed],
) -> list[Picture]:
    """Images of this process's `wanted` images."""
    missing = {key: psnr for psnr, key, _, _ in wanted}
    found: list[Picture] = []
    for batch in chain(_numbered(batches, sorted({number for *_, number in wanted})), batches):
        rows = [i for i, key in enumerate(batch["key"]) if key in missing]
        if rows:
            shown = reconstruct(batch, rows)
            for row, *pair in zip(rows, shown.reference, shown.pixels, strict=True):
                key = batch["key"][row]
                found.append(_picture(key, missing.pop(key), *pair))
        if not missing:
            break
    return sorted(found, key=lambda p: (p.psnr, p.key))


def _numbered(batches: Iterable, numbers: list[int]) -> Iterator[Mapping[str, Any]]:
    """Batches by random access, where the loader allows it: a thousand are not read for three.

    The numbers are a hint: a loader may leave out batches without a readable image, and then counts differently.
    """
    if isinstance(batches, DataLoader) and batches.batch_sampler is not None and numbers:
        samples = list(islice(batches.batch_sampler, numbers[-1] + 1))
        for number in numbers:
            yield batches.collate_fn([batches.dataset[i] for i in samples[number]])
