"""Peak signal-to-noise ratio per image, and that of each image's own mean colour as a baseline."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.pixels import psnr_from_mse, squared_error_per_image
from .base import Metric, Quantity, Row


class Psnr(Metric):
    """Mean and deciles over images; an identical image counts as `cap` dB and is counted."""

    higher_is_better = True
    quantities = {"psnr": Quantity("PSNR", "dB", "higher", 3, 2)}
    result_keys = ("psnr", "psnr_mean_colour")
    group = "Pixels"
    psnr_values: list[Tensor]
    mean_colour_sum: Tensor
    protocol_fields = {"cap": "psnr_cap"}

    def __init__(self, *, cap: float = 100.0, **options: Any) -> None:
        super().__init__(**options)
        self.cap = cap
        self.add_rows("psnr_values", dtype=torch.float64)
        self.add_state("mean_colour_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, reference: Tensor, reconstruction: Tensor) -> None:
        reference, reconstruction = self.pixels(reference, reconstruction)
        mse = squared_error_per_image(reference, reconstruction)
        colour = reference.float().mean((-2, -1), keepdim=True).round_()
        flat = squared_error_per_image(reference, colour.expand_as(reference))
        self.psnr_values.append(psnr_from_mse(mse, self.cap))
        self.mean_colour_sum = self.mean_colour_sum + psnr_from_mse(flat, self.cap).sum()

    @property
    def last(self) -> np.ndarray:
        """Of the images of the last batch, in their order."""
        return self.psnr_values[-1].cpu().numpy()

    def measure(self) -> dict[str, Any]:
        values = self.rows_of("psnr_values").cpu().numpy()
        return {
            "psnr": {
                "mean": float(values.mean()),
                "deciles": [float(d) for d in np.quantile(values, np.linspace(0.1, 0.9, 9))],
                "min": float(values.min()),
                "max": float(values.max()),
                "std": float(values.std()),
                "capped": int((values >= self.cap).sum()),
                "histogram": histogram(values),
            },
            "psnr_mean_colour": float(self.mean_colour_sum) / len(values),
        }

    def warnings(self, entries: Mapping[str, Any]) -> list[str]:
        count = entries["psnr"]["capped"]
        return [f"{count} identical images count as {self.cap:g} dB in the PSNR mean"] if count else []

    def words(self) -> list[tuple[str, str]]:
        return [
            ("PSNR", f"per image over C, H, W, range 255, mean over images, identical images count {self.cap:g} dB")
        ]

    @classmethod
    def note(cls, found: Any) -> str:
        spread = f"deciles 1 and 9: {found['deciles'][0]:.2f} and {found['deciles'][-1]:.2f} dB"
        return spread + (f"; {found['capped']} identical images capped" if found["capped"] else "")

    @classmethod
    def rows(cls, results: Mapping[str, Any]) -> Iterator[Row]:
        if "psnr" not in results:
            return
        yield from super().rows(results)
        floor = f"{results['psnr_mean_colour']:.3f} dB"
        note = "each image replaced by its own mean colour: the floor"
        yield Row(cls.group, "PSNR of the mean colour", floor, "", note)


def histogram(values: np.ndarray, bins: int = 40) -> dict[str, Any]:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}
