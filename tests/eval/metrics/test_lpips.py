"""The metric is the loss's network on images in [-1, 1]."""

import pytest
import torch

from imtok.common.pixels import to_model_range
from imtok.eval.metrics import LpipsAlex, LpipsVgg
from imtok.losses.lpips import LPIPSNet


@pytest.mark.parametrize(("metric", "net", "smallest"), [(LpipsAlex, "alex", 31), (LpipsVgg, "vgg", 16)])
def test_it_is_the_mean_of_the_losses_distance(metric: type, net: str, smallest: int) -> None:
    a, b = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    found = metric(weights="random")
    found.update(a[:1], b[:1])
    found.update(a[1:], b[1:])
    distance = LPIPSNet(net=net, weights="random")(to_model_range(a), to_model_range(b))
    [(key, value)] = found.result().items()
    assert key == f"lpips_{net}[random]" and found.network.module.label == key
    assert value == pytest.approx(float(distance.mean()), rel=1e-5)
    assert found.network.module.source == "random"
    assert found.start((smallest, 99), ()) is None
    assert f"{smallest} pixels or more, these have {smallest - 1}" in found.start((99, smallest - 1), ())
