"""Peak signal-to-noise ratio per image, and that of each image's own mean colour as the floor to stand on."""

import numpy as np
import torch
from torch import Tensor

from ...common.pixels import psnr_from_mse, squared_error_per_image


class Psnr:
    """Mean and deciles over images; an identical image counts as `cap` dB and is counted."""

    def __init__(self, *, cap: float = 100.0) -> None:
        self.cap = cap
        self.values: list[np.ndarray] = []
        self.mean_colour_sum = 0.0
        self.capped = 0

    def update(self, reference: Tensor, reconstruction: Tensor) -> np.ndarray:
        """uint8 [B, 3, H, W] twice; returns this batch's values, which the picture gallery sorts by."""
        mse = squared_error_per_image(reference, reconstruction)
        colour = reference.float().mean((-2, -1), keepdim=True).round_()
        flat = squared_error_per_image(reference, colour.expand_as(reference))
        both = psnr_from_mse(torch.stack([mse, flat]), self.cap).cpu().numpy()  # the one transfer of a batch
        self.values.append(both[0])
        self.mean_colour_sum += float(both[1].sum())
        self.capped += int((both[0] >= self.cap).sum())
        return both[0]

    def merge(self, other: "Psnr") -> None:
        self.values += other.values
        self.mean_colour_sum += other.mean_colour_sum
        self.capped += other.capped

    def result(self) -> dict:
        values = np.concatenate(self.values)
        deciles = np.quantile(values, np.linspace(0.1, 0.9, 9))
        return {
            "psnr": {
                "mean": float(values.mean()),
                "deciles": [float(d) for d in deciles],
                "min": float(values.min()),
                "max": float(values.max()),
                "std": float(values.std()),
                "capped": self.capped,
                "histogram": _histogram(values),
            },
            "psnr_mean_colour": self.mean_colour_sum / len(values),
        }


def _histogram(values: np.ndarray, bins: int = 40) -> dict:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}
