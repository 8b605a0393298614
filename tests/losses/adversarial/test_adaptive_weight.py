import copy

import pytest
import torch
from torch import nn

from imtok.common.errors import UserError
from imtok.losses.adversarial.adaptive_weight import AdaptiveWeight, keep_last_layer_out_of_compile


def losses_of(picture, target, discriminator):
    return (picture - target).abs().mean() + 0.3 * (picture - target).square().mean(), -discriminator(picture).mean()


@pytest.fixture
def parts(FakeTokenizer, images):
    torch.manual_seed(1)
    discriminator = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 3))
    return FakeTokenizer(), discriminator, images(2, 8, seed=1), images(2, 8, seed=2)


def numeric_norm(value, weight):
    """Central differences of value() along every entry of weight, in double precision."""
    flat = weight.data.view(-1)
    slopes = []
    for i in range(len(flat)):
        old = flat[i].item()
        flat[i] = old + 1e-6
        above = value()
        flat[i] = old - 1e-6
        slopes.append((above - value()) / 2e-6)
        flat[i] = old
    return torch.stack(slopes).norm()


def test_processes_share_their_mean_or_each_has_its_own(parts, monkeypatch):
    """The other process's ratio is twice this one's."""
    monkeypatch.setattr("imtok.losses.adversarial.adaptive_weight.mean_over_ranks", lambda ratio: 1.5 * ratio)
    tokenizer, discriminator, x, target = parts
    found = []
    for per_device in (True, False):
        picture = tokenizer(x).reconstruction
        nll, gan = losses_of(picture, target, discriminator)
        ratio, _ = AdaptiveWeight(per_device=per_device)(
            reconstruction_loss=nll, gan_loss=gan, reconstruction=picture, last_layer=tokenizer.last_layer
        )
        found.append(float(ratio))
    assert found[1] == pytest.approx(1.5 * found[0])


def test_equals_finite_differences(parts):
    tokenizer, discriminator, x, target = (p.double() for p in parts)

    @torch.no_grad()
    def value(which):
        return losses_of(tokenizer(x).reconstruction, target, discriminator)[which]

    picture = tokenizer(x).reconstruction
    nll, gan = losses_of(picture, target, discriminator)
    ratio, _ = AdaptiveWeight()(
        reconstruction_loss=nll, gan_loss=gan, reconstruction=picture, last_layer=tokenizer.last_layer
    )
    norms = [numeric_norm(lambda which=which: value(which), tokenizer.last_layer) for which in (0, 1)]
    assert float(ratio) == pytest.approx(float(norms[0] / (norms[1] + 1e-4)), rel=1e-5)


def test_gradients_after_it_are_those_of_the_plain_sum(parts):
    """The GAN loss that comes back has its gradient already; the sum must train the tokenizer as the plain one does."""
    tokenizer, discriminator, x, target = parts
    nll, gan = losses_of(picture := tokenizer(x).reconstruction, target, discriminator)
    ratio, known = AdaptiveWeight()(
        reconstruction_loss=nll, gan_loss=gan, reconstruction=picture, last_layer=tokenizer.last_layer
    )
    assert known.detach() == gan.detach() and not ratio.requires_grad
    (nll + 0.5 * ratio * known).backward()
    ours = [p.grad.clone() for p in tokenizer.parameters()]

    tokenizer.zero_grad()
    nll, gan = losses_of(tokenizer(x).reconstruction, target, discriminator)
    (nll + 0.5 * ratio * gan).backward()
    for mine, p in zip(ours, tokenizer.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_gradients_survive_autocast(parts, dtype):
    tokenizer, discriminator, x, target = parts

    def ratio(scale, enabled):
        with torch.autocast("cpu", dtype, enabled=enabled):
            picture = tokenizer(x).reconstruction.float()
            nll, gan = losses_of(picture, target, discriminator)
        return AdaptiveWeight()(
            reconstruction_loss=nll * scale, gan_loss=gan, reconstruction=picture, last_layer=tokenizer.last_layer
        )[0]

    assert float(ratio(1e-7, True)) == pytest.approx(1e-7 * float(ratio(1.0, False)), rel=0.05)


def test_clamped_on_both_sides(parts):
    tokenizer, _, x, target = parts
    for factor, bounds, expected in ((0.0, {}, 1e4), (0.0, {"maximum": 7.0}, 7.0), (1e9, {"minimum": 0.015}, 0.015)):
        picture = tokenizer(x).reconstruction
        ratio, _ = AdaptiveWeight(**bounds)(
            reconstruction_loss=(picture - target).abs().sum() * 100,
            gan_loss=picture.mean() * factor,
            reconstruction=picture,
            last_layer=tokenizer.last_layer,
        )
        assert float(ratio) == pytest.approx(expected)


def test_discriminator_runs_backwards_once(parts):
    tokenizer, discriminator, x, target = parts
    discriminator.requires_grad_(False)
    runs = []
    picture = tokenizer(x).reconstruction
    hidden = discriminator[0](picture)
    hidden.register_hook(lambda g: runs.append(1))
    gan = -discriminator[2](discriminator[1](hidden)).mean()
    ratio, known = AdaptiveWeight()(
        reconstruction_loss=(picture - target).abs().mean(),
        gan_loss=gan,
        reconstruction=picture,
        last_layer=tokenizer.last_layer,
    )
    (ratio * known).backward()
    assert len(runs) == 1
    assert tokenizer.trunk.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("apart", [False, True])
def test_same_under_compile(parts, apart):
    tokenizer, discriminator, x, target = parts
    rule = AdaptiveWeight()  # before compiling, as in a run: it tells AOTAutograd to keep its buffers

    def run(model):
        nll, gan = losses_of(picture := model(x).reconstruction, target, discriminator)
        ratio, known = rule(
            reconstruction_loss=nll, gan_loss=gan, reconstruction=picture, last_layer=tokenizer.last_layer
        )
        tokenizer.zero_grad()
        (nll + ratio * known).backward()
        return ratio, [p.grad.clone() for p in tokenizer.parameters()]

    eager, eager_gradients = run(tokenizer)
    twin = copy.deepcopy(tokenizer)
    if apart:
        keep_last_layer_out_of_compile(tokenizer, tokenizer.last_layer)
        assert isinstance(tokenizer.conv_out, nn.Conv2d) and type(twin.conv_out) is nn.Conv2d
    torch._dynamo.reset()
    compiled, gradients = run(torch.compile(tokenizer, backend="aot_eager"))
    torch.testing.assert_close(compiled, eager)
    for mine, theirs in zip(gradients, eager_gradients, strict=True):
        torch.testing.assert_close(mine, theirs)
    moved = copy.deepcopy(tokenizer)  # as EMA does: the copy computes with its own weights
    moved.conv_out.weight.data.zero_()
    moved.conv_out.bias.data.zero_()
    assert not moved(x).reconstruction.any() and tokenizer(x).reconstruction.any()


def test_frozen_last_layer_and_bad_bounds_are_errors(parts):
    tokenizer, discriminator, x, target = parts
    tokenizer.conv_out.requires_grad_(False)
    nll, gan = losses_of(picture := tokenizer(x).reconstruction, target, discriminator)
    with pytest.raises(UserError, match=r"adversary\.adaptive=null"):
        AdaptiveWeight()(reconstruction_loss=nll, gan_loss=gan, reconstruction=picture, last_layer=tokenizer.last_layer)
    with pytest.raises(ValueError, match=r"^minimum=2"):
        AdaptiveWeight(minimum=2, maximum=1)


def test_fp16_loses_no_gradient_of_a_large_batch(monkeypatch):
    """Without a scale of its own this backward pass would lose most of it: a mean over 256 images' logits is small."""
    from imtok.losses.adversarial import adaptive_weight
    from imtok.losses.adversarial.patchgan import PatchGAN

    torch.manual_seed(0)
    discriminator, images = PatchGAN(ndf=8, n_layers=3, norm="none"), torch.rand(256, 3, 24, 24) * 2 - 1
    last_layer = torch.ones((), requires_grad=True)

    def known_gradient(dtype):
        picture = images * last_layer
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            gan = -discriminator(picture).float().mean()
        nll = (picture - 0.5).abs().mean()
        _, known = AdaptiveWeight()(
            reconstruction_loss=nll, gan_loss=gan, reconstruction=picture, last_layer=last_layer
        )
        return torch.autograd.grad(known, picture)[0].flatten()

    wanted, found = known_gradient(None), known_gradient(torch.float16)
    assert float(((found == 0) & (wanted != 0)).float().mean()) < 1e-3
    assert float(torch.cosine_similarity(wanted, found, dim=0)) > 0.999
    torch.testing.assert_close(found.norm(), wanted.norm(), rtol=0.01, atol=0)
    monkeypatch.setattr(adaptive_weight, "_scale_for", lambda images: 1.0)
    lost = known_gradient(torch.float16)
    assert float((lost == 0).float().mean()) > 0.5 and torch.equal(known_gradient(None), wanted)
