"""Mean absolute difference, in units of the full range (0 to 1)."""

from torch import Tensor


class PixelError:
    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(self, reference: Tensor, reconstruction: Tensor) -> None:
        difference = (reference.float() - reconstruction.float()).abs_()
        # Row sums of byte differences are exact in float32; only they are added in float64.
        self.sum = self.sum + difference.sum(-1).double().sum() / (255.0 * difference[0].numel())
        self.count += len(reference)

    def merge(self, other: "PixelError") -> None:
        self.sum, self.count = float(self.sum) + float(other.sum), self.count + other.count

    def result(self) -> dict:
        return {"l1": float(self.sum) / self.count}
