"""Linear classifier on frozen features (linear probe)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DECAYS = (1e-4, 1e-2, 1.0)  # of half the squared weights against the mean cross-entropy; then fitted on all images
PROTOCOL = "standardised, logistic regression, L2 strength chosen on every fifth fitting image"


@dataclass(frozen=True)
class LinearProbe:
    weight_CD: Tensor
    bias_C: Tensor
    mean_D: Tensor
    deviation_D: Tensor
    decay: float

    def predict(self, features_ND: Tensor) -> Tensor:
        x_ND = _standardised(features_ND, self.mean_D, self.deviation_D)
        return (x_ND @ self.weight_CD.T + self.bias_C).argmax(dim=1)


def fit_linear_probe(features_ND: Tensor, labels_N: Tensor, *, classes: int) -> LinearProbe:
    """Deterministic: starts at zero, sees all images at every step; float64 on the CPU."""
    features, labels = features_ND.double().cpu(), labels_N.cpu()
    held = torch.arange(len(features)) % 5 == 4
    scores = []
    for decay in DECAYS:
        probe = _fit(features[~held], labels[~held], classes, decay)
        right = (probe.predict(features[held]) == labels[held]).double().mean() if bool(held.any()) else torch.zeros(())
        scores.append(float(right))
    best = max(range(len(DECAYS)), key=lambda i: (scores[i], DECAYS[i]))
    return _fit(features, labels, classes, DECAYS[best])


def _fit(features_ND: Tensor, labels_N: Tensor, classes: int, decay: float) -> LinearProbe:
    mean, deviation = features_ND.mean(dim=0), features_ND.std(dim=0, unbiased=False)
    x = _standardised(features_ND, mean, deviation)
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, labels_N) + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(closure)
    return LinearProbe(weight.detach(), bias.detach(), mean, deviation, decay)


def _standardised(x_ND: Tensor, mean_D: Tensor, deviation_D: Tensor) -> Tensor:
    """A constant feature stays at zero."""
    return (x_ND.double().cpu() - mean_D) / torch.where(deviation_D > 1e-8, deviation_D, 1.0)
