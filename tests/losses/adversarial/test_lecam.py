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


def test_a_mean_logit_of_so_many_images_is_that_of_several_gpus():
    """The penalty is then the mean of what each would have, and the running means move alike."""
    (real, fake), (real2, fake2) = batches(2)
    grouped, gpus = LeCam(decay=0.5, images=2), [LeCam(decay=0.5) for _ in range(2)]
    for r, f in ((real, fake), (real2, fake2)):
        each = [
            float(gpu(*pair, update=0))
            for gpu, pair in zip(gpus, zip(r.split(2), f.split(2), strict=True), strict=True)
        ]
        together = [torch.stack([getattr(gpu, name) for gpu in gpus]).mean() for name in ("ema_real", "ema_fake")]
        for gpu in gpus:  # whose means are those of all processes
            gpu.ema_real.copy_(together[0])
            gpu.ema_fake.copy_(together[1])
        assert float(grouped(r, f, update=0)) == pytest.approx(sum(each) / 2, rel=1e-5)
        assert float(grouped.ema_real) == pytest.approx(float(gpus[0].ema_real), rel=1e-5)
    assert each[0] != pytest.approx(each[1], rel=1e-2)
    whole = LeCam(decay=0.5)
    whole.load_state_dict(grouped.state_dict())
    assert float(whole(real, fake, update=0)) != pytest.approx(float(grouped(real, fake, update=0)), rel=1e-3)
    with pytest.raises(ValueError, match=r"^adversary\.lecam\.images=3: a device has 4 images at once"):
        LeCam(images=3)(real, fake, update=0)
    for wrong in ({"images": 0}, {"images": 2, "form": "per_logit"}):
        with pytest.raises(ValueError, match=r"^images="):
            LeCam(**wrong)


def test_an_update_of_micro_batches_moves_the_means_once():
    lecam, whole = (LeCam(decay=0.5, form="per_logit", means_first=False) for _ in range(2))
    pairs = batches(3)
    lecam.begin_update()
    for real, fake in pairs:
        assert float(lecam(real, fake, update=0)) > 0
        assert float(lecam.ema_real) == 0
    lecam.finish_update()
    whole(*(torch.cat(side) for side in zip(*pairs, strict=True)), update=0)
    assert float(lecam.ema_real) == pytest.approx(float(whole.ema_real), rel=1e-5) and float(whole.ema_real) > 0.1
    lecam(*pairs[0], update=1)  # outside of an update at once, as before
    assert float(lecam.ema_real) != float(whole.ema_real)
