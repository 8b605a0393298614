import numpy as np
import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.losses.adversarial.lecam import LeCam


def batches(count=6):
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(4, 1, 2, 2, generator=generator) + 1, torch.randn(4, 1, 2, 2, generator=generator) - 1)
        for _ in range(count)
    ]


@pytest.mark.parametrize("form", ["batch_mean", "per_logit"])
def test_recursion_in_numpy(form):
    lecam, decay = LeCam(decay=0.7, form=form), 0.7
    ema_real = ema_fake = 0.0
    for update, (real, fake) in enumerate(batches()):
        r, f = real.numpy().astype(np.float64), fake.numpy().astype(np.float64)
        moved = decay * ema_real + (1 - decay) * r.mean(), decay * ema_fake + (1 - decay) * f.mean()
        if form == "per_logit":
            ema_real, ema_fake = moved
        else:
            r, f = r.mean(), f.mean()
        expected = np.mean(np.maximum(r - ema_fake, 0) ** 2) + np.mean(np.maximum(ema_real - f, 0) ** 2)
        ema_real, ema_fake = moved
        assert float(lecam(real, fake, update=update)) == pytest.approx(expected, rel=1e-5)
        assert [float(lecam.ema_real), float(lecam.ema_fake)] == pytest.approx([ema_real, ema_fake], rel=1e-5)


def test_means_and_penalty_wait_for_start():
    lecam = LeCam(start=2, decay=0.5)
    for update, (real, fake) in enumerate(batches(3)):
        penalty = lecam(real, fake, update=update)
        assert (float(lecam.ema_real) != 0) == (update >= 2)
        assert (float(penalty) != 0) == (update >= 2)


def test_eval_moves_nothing_and_state_travels():
    lecam = LeCam(decay=0.5)
    (real, fake), (other, _) = batches(2)
    lecam(real, fake, update=0)
    before = {k: v.clone() for k, v in lecam.state_dict().items()}
    assert set(before) == {"ema_real", "ema_fake"} and before["ema_real"] != 0
    lecam.eval()(other, fake, update=1)
    assert all(torch.equal(v, before[k]) for k, v in lecam.state_dict().items())
    again = LeCam(decay=0.5)
    again.load_state_dict(before)
    assert again.train()(other, fake, update=1) == lecam.train()(other, fake, update=1)


@pytest.mark.parametrize("form", ["batch_mean", "per_logit"])
def test_gradient_survives_a_second_forward(form):
    """Buffers that move in place must not be what autograd kept."""
    lecam = LeCam(decay=0.5, form=form)
    (real, fake), (real2, fake2) = batches(2)
    real.requires_grad_()
    first = lecam(real, fake, update=0)
    lecam(real2, fake2, update=1)
    first.backward()
    assert real.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("given", "says"),
    [({"form": "two_sided"}, "adversary.lecam.form=two_sided: "), ({"decay": 2}, "adversary.lecam.decay=2: ")],
)
def test_errors(given, says):
    with pytest.raises(UserError, match=f"^{says}"):
        build({"_target_": "imtok.losses.adversarial.lecam.LeCam", **given}, key="adversary.lecam")
