import pytest
import torch
from torch import nn

from imtok.common.errors import UserError
from imtok.losses.adversarial.patchgan import PatchGAN, from_taming_keys


def as_published(*, ndf, n_layers):
    """The flat list of pix2pix, from its description: 4x4 convolutions, widths doubling up to eightfold."""
    layers = [nn.Conv2d(3, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
    widths = [ndf * min(2**n, 8) for n in range(n_layers + 1)]
    for n in range(1, n_layers + 1):
        layers.append(nn.Conv2d(widths[n - 1], widths[n], 4, 1 if n == n_layers else 2, 1, bias=False))
        layers += [nn.BatchNorm2d(widths[n]), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))


@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
def test_equals_the_flat_list_through_its_keys(n_layers, images):
    reference = as_published(ndf=4, n_layers=n_layers)
    for name, tensor in reference.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.3)
    ours = PatchGAN(ndf=4, n_layers=n_layers)
    state = {f"loss.discriminator.main.{k}": v for k, v in reference.state_dict().items()}
    ours.load_state_dict(from_taming_keys(state))
    x = images(2, 128)
    for mode in (False, True):
        torch.testing.assert_close(ours.train(mode)(x), reference.train(mode)(x))


def test_foreign_keys_are_an_error():
    with pytest.raises(UserError, match=r"encoder\.conv_in\.weight"):
        from_taming_keys({"main.0.weight": torch.zeros(1), "encoder.conv_in.weight": torch.zeros(1)})


@pytest.mark.parametrize("norm", ["batch", "act", "group", "none"])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_smallest_image_is_the_true_limit(norm, n_layers, images):
    discriminator = PatchGAN(ndf=4, n_layers=n_layers, norm=norm).eval()
    side = discriminator.smallest_image
    assert discriminator(images(size=side)).shape == (2, 1, 1, 1)
    with pytest.raises(RuntimeError):
        discriminator(images(size=side - 1))


def test_actnorm_is_set_by_the_first_training_batch_only(images):
    norm = PatchGAN(ndf=4, n_layers=1, norm="act").blocks[0].norm
    x = torch.randn(4, 8, 5, 5) * 3 + 2
    torch.testing.assert_close(norm.eval()(x), x)  # eval forwards set nothing
    first = norm.train()(x)
    torch.testing.assert_close(first.mean((0, 2, 3)), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.std((0, 2, 3)), torch.ones(8), atol=1e-5, rtol=0)
    loc = norm.loc.clone()
    norm(x * 7)
    assert torch.equal(norm.loc, loc)

    loaded = PatchGAN(ndf=4, n_layers=1, norm="act").blocks[0].norm
    loaded.load_state_dict(norm.state_dict())
    assert int(loaded.initialized) == 1
    assert torch.equal(loaded.train()(x * 7), norm(x * 7))  # a resumed run does not start it afresh


def test_initial_weights():
    torch.manual_seed(0)
    discriminator = PatchGAN(ndf=32)
    assert float(discriminator.blocks[2].conv.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    norm = discriminator.blocks[2].norm
    assert float(norm.weight.detach().mean()) == pytest.approx(1, abs=0.01) and not norm.bias.any()


@pytest.mark.parametrize(("given", "says"), [({"norm": "layer"}, "norm=layer"), ({"n_layers": 0}, "n_layers=0")])
def test_errors(given, says):
    with pytest.raises(ValueError, match=f"^{says}: "):
        PatchGAN(**given)
