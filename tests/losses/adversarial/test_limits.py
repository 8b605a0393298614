"""Where each setting of an adversary ends, what parts start from, and the cases at the edge of their formulas."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imtok.losses.adversarial.actnorm import ActNorm
from imtok.losses.adversarial.adaptive_weight import AdaptiveWeight
from imtok.losses.adversarial.adversary import PIXEL_TERMS, Adversary, weights_by_name
from imtok.losses.adversarial.blur_patchgan import BlurPatchGAN
from imtok.losses.adversarial.consistency import BalancedConsistency
from imtok.losses.adversarial.diff_augment import DiffAugment, blurred, cut_out, recoloured, shifted
from imtok.losses.adversarial.dino import DinoDiscriminator, without_key_bias
from imtok.losses.adversarial.dinov2 import DinoV2Discriminator
from imtok.losses.adversarial.gan_losses import (
    DISCRIMINATOR_LOSSES,
    llamagen_swapped_discriminator,
    llamagen_swapped_generator,
)
from imtok.losses.adversarial.lecam import LeCam
from imtok.losses.adversarial.patchgan import PatchGAN
from imtok.losses.adversarial.residual_patchgan import ResidualPatchGAN

TINY_V2 = {"weights": "random", "width": 32, "depth": 1, "num_heads": 2, "taps": (0,), "kernel": 1}


class Pixels(nn.Module):
    """The image itself as logits, times a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.gain * images


@pytest.mark.parametrize(
    ("part", "taken", "refused"),
    [
        (BlurPatchGAN, {"stages": 1}, {"stages": 0}),
        (BlurPatchGAN, {"ndf": 32}, {"ndf": 33}),
        (BlurPatchGAN, {"largest_map": 1}, {"largest_map": 0}),
        (BlurPatchGAN, {"blur": 3}, {"blur": 2}),
        (BlurPatchGAN, {"blur": 5}, {"blur": 6}),
        (PatchGAN, {"n_layers": 1}, {"n_layers": 0}),
        (ResidualPatchGAN, {"n_layers": 1}, {"n_layers": 0}),
        (ResidualPatchGAN, {"ndf": 32}, {"ndf": 0}),
        (LeCam, {"decay": 0}, {"decay": -0.001}),
        (LeCam, {"decay": 1}, {"decay": 1.001}),
        (DiffAugment, {"chance": 0}, {"chance": -0.001}),
        (DiffAugment, {"shift": 1}, {"shift": 1.001}),
        (DiffAugment, {"cutout": 0.5}, {"cutout": 1.001}),
        (DiffAugment, {"blur_updates": 0}, {"blur_updates": -1}),
        (AdaptiveWeight, {"minimum": 0.5, "maximum": 0.5}, {"minimum": -0.001}),
    ],
)
def test_the_smallest_value_is_taken_and_the_next_is_not(part, taken, refused) -> None:
    part(**taken)
    (name, value), *_ = refused.items()
    with pytest.raises(ValueError, match=rf"^{name}={value}: "):
        part(**refused)


@pytest.mark.parametrize(
    ("taken", "refused"),
    [
        ({"start": 3, "discriminator_warmup": 3}, {"start": 3, "discriminator_warmup": 4}),
        ({"ramp": 0}, {"ramp": -1}),
        ({"start": 0}, {"start": -1}),
    ],
)
def test_updates_of_an_adversary_begin_at_0(taken, refused) -> None:
    assert Adversary(discriminator=Pixels(), **taken).first_update == 0
    with pytest.raises(ValueError, match="="):
        Adversary(discriminator=Pixels(), **refused)


def test_defaults_of_an_adversary_are_a_plain_hinge_gan_from_the_first_update() -> None:
    given = {name: p.default for name, p in inspect.signature(Adversary).parameters.items()}
    del given["discriminator"]
    absent = dict.fromkeys(("generator_loss", "adaptive", "lecam", "consistency", "optimizer"))
    counts = {"start": 0, "discriminator_warmup": 0, "ramp": 0}
    weights = {"weight": 1.0, "discriminator_weight": 1.0, "reconstruction_terms": PIXEL_TERMS}
    choices = {
        "gan_loss": "hinge",
        "own_clock": True,
        "order": "generator_first",
        "image_range": "signed",
        "precision": "auto",
    }
    assert given == choices | absent | counts | weights
    adversary = Adversary(discriminator=Pixels())
    assert adversary.update == 0 and adversary.factor(0) == 1.0


def test_the_factor_is_nothing_before_the_start_and_never_above_1() -> None:
    adversary = Adversary(discriminator=Pixels(), start=10, ramp=4)
    assert [adversary.factor(n) for n in (0, 9, 10, 12, 13, 14, 99)] == [0, 0, 0.25, 0.75, 1, 1, 1]


def test_weights_of_reconstruction_terms_are_numbers_from_0() -> None:
    assert weights_by_name([{"l1": 0}, {"l2": 0.5}, "lpips"]) == {"l1": 0, "l2": 0.5, "lpips": None}
    for wrong in (True, float("inf"), float("nan"), -0.001):
        with pytest.raises(ValueError, match=r"^reconstruction_terms\.l1="):
            weights_by_name({"l1": wrong})


def test_an_image_as_small_as_the_discriminator_takes_passes_the_check(FakeTokenizer) -> None:
    discriminator = PatchGAN(ndf=4, n_layers=1)
    Adversary(discriminator=discriminator).check(FakeTokenizer(image_size=(6, 6)), ["l1"])
    Adversary(discriminator=Pixels()).check(FakeTokenizer(image_size=(1, 1)), ["l1"])  # says nothing of its size


def test_logs_keep_no_graph(FakeTokenizer, images) -> None:
    batch = {"image": images(2, 8)}
    output = FakeTokenizer()(batch["image"])
    parts = {"lecam": LeCam(), "consistency": BalancedConsistency(augment=nn.Tanh())}
    adversary = Adversary(discriminator=Pixels(), **parts)
    loss, logs = adversary.discriminator_loss(batch, output)
    assert loss.requires_grad and len(logs) == 5
    assert not any(value.requires_grad for value in logs.values())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_actnorm_of_few_values_has_their_sample_deviation(count: int) -> None:
    x = torch.randn(count, 2, 1, 1)
    out = ActNorm(2)(x)
    assert out.isfinite().all()
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(2, 1, 1), atol=1e-5, rtol=0)
    if count > 1:
        torch.testing.assert_close(out.std(dim=0), torch.ones(2, 1, 1), atol=1e-4, rtol=0)


def test_the_ratio_without_one_of_the_two_gradients(FakeTokenizer, images) -> None:
    tokenizer, x = FakeTokenizer(), images(2, 8)
    picture = tokenizer(x).reconstruction
    still = torch.tensor(0.5, requires_grad=True)
    given = {"reconstruction": picture, "last_layer": tokenizer.last_layer}
    for nothing in (torch.tensor(0.5), still * 2):  # without a graph, and with one that misses the picture
        ratio, loss = AdaptiveWeight()(reconstruction_loss=picture.mean(), gan_loss=nothing, **given)
        assert float(ratio) == 0 and not loss.requires_grad and float(loss) == float(nothing.detach())
        ratio, loss = AdaptiveWeight()(reconstruction_loss=nothing, gan_loss=picture.mean(), **given)
        assert float(ratio) == 0 and loss.requires_grad
    ratio, _ = AdaptiveWeight()(reconstruction_loss=(picture * 0).sum(), gan_loss=picture.mean(), **given)
    assert float(ratio) == 0  # a gradient of zeros has no direction


def test_a_compiled_decoder_keeps_its_buffers_and_the_discriminators_graph_goes(FakeTokenizer, images) -> None:
    torch._functorch.config.donated_buffer = True
    rule, tokenizer = AdaptiveWeight(), FakeTokenizer()
    assert torch._functorch.config.donated_buffer is False
    picture = tokenizer(images(2, 8)).reconstruction
    gan = -nn.Conv2d(3, 1, 3)(picture).square().mean()
    rule(reconstruction_loss=picture.mean(), gan_loss=gan, reconstruction=picture, last_layer=tokenizer.last_layer)
    with pytest.raises(RuntimeError, match="second time"):
        gan.backward()


def test_blur_patchgan_brings_all_features_to_its_largest_map() -> None:
    discriminator = BlurPatchGAN(ndf=32, stages=1, largest_map=4)
    assert discriminator.smallest_image == 2 and BlurPatchGAN(ndf=32, stages=3).smallest_image == 8
    assert discriminator(torch.rand(1, 3, 8, 6)).shape == (1, 1, 4, 4)
    assert discriminator(torch.rand(1, 3, 4, 4)).shape == (1, 1, 4, 4)
    assert discriminator(torch.rand(1, 3, 10, 6)).shape == (1, 1, 4, 4)


def test_a_plain_mean_halves_where_there_is_no_blur() -> None:
    stage, x = BlurPatchGAN(ndf=32, stages=1, blur=None).blocks[0], torch.randn(2, 32, 6, 6)
    expected = F.leaky_relu(F.group_norm(F.avg_pool2d(stage.conv(x), 2), 32), 0.1)
    torch.testing.assert_close(stage(x), expected)


def test_a_blur_reaches_three_widths_and_no_further_than_the_image() -> None:
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1.0
    spread = blurred(point, 2.0)[0, 0].sum(dim=0)
    assert spread.nonzero().flatten().tolist() == list(range(10, 23))
    small = torch.rand(1, 3, 4, 6)
    x = torch.arange(-3.0, 4.0)
    taps = torch.exp2(-(x / 5).square())
    taps = taps / taps.sum()
    padded = F.pad(small, (3, 3, 3, 3), mode="reflect")
    expected = F.conv2d(padded, (taps[:, None] * taps).expand(3, 1, 7, 7), groups=3)
    torch.testing.assert_close(blurred(small, 5.0), expected)


def test_the_first_blur_is_the_root_of_half_the_side() -> None:
    images = torch.rand(1, 3, 32, 24)
    augment = DiffAugment(chance=0.0, blur_updates=4)
    torch.testing.assert_close(augment(images), blurred(images, 4.0))
    augment.set_update(1)
    torch.testing.assert_close(augment(images), blurred(images, 3.0))


def test_a_blur_of_one_pixel_counts() -> None:
    images = torch.rand(1, 1, 8, 8)
    assert not torch.equal(blurred(images, 0.4), images) and torch.equal(blurred(images, 0.3), images)


def test_brightness_saturation_and_contrast_fill_their_ranges() -> None:
    images = torch.rand(4000, 3, 3, 2)
    out = recoloured(images)
    brightness = (out - images).mean(dim=(1, 2, 3))

    def slope(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).sum(dim=(1, 2, 3)) / a.square().sum(dim=(1, 2, 3))

    def grey(x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=1, keepdim=True)

    contrast = slope(
        grey(images) - images.mean(dim=(1, 2, 3), keepdim=True), grey(out) - out.mean(dim=(1, 2, 3), keepdim=True)
    )
    saturation = slope(images - grey(images), out - grey(out)) / contrast
    for found, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0.0, 2.0)):
        assert low - 1e-3 < float(found.min()) < low + 0.02
        assert high - 0.02 < float(found.max()) < high + 1e-3


def test_shifts_reach_their_share_of_the_side_and_not_more() -> None:
    images = torch.zeros(400, 1, 16, 32)
    images[:, :, 8, 16] = 1.0
    at = shifted(images, 0.125).flatten(1).argmax(dim=1)
    assert set((at // 32).tolist()) == set(range(6, 11)) and set((at % 32).tolist()) == set(range(12, 21))


def test_an_odd_square_has_its_centre_on_every_pixel() -> None:
    blank = (cut_out(torch.ones(600, 1, 20, 12), 0.25) == 0)[:, 0]
    rows, columns = blank.any(dim=2), blank.any(dim=1)
    assert set(rows.sum(dim=1).tolist()) == {3, 4, 5}  # of 5: the centre is always in the image
    assert set(columns.sum(dim=1).tolist()) == {2, 3}
    assert rows.any(dim=0).all() and columns.any(dim=0).all()
    starts = rows.float().argmax(dim=1)[rows.sum(dim=1) == 5]
    assert set(starts.tolist()) == set(range(16))


def test_cutout_0_blanks_nothing() -> None:
    images = torch.ones(8, 1, 4, 4)
    augment = DiffAugment(shift=0.0, cutout=0.0)
    assert (augment(images).flatten(1).std(dim=1) < 1e-6).all()


def test_dino_loses_the_bias_of_its_keys_and_nothing_else() -> None:
    state = {"blocks.0.attn.qkv.bias": torch.arange(1.0, 10.0), "norm.bias": torch.ones(3)}
    found = without_key_bias(state)
    assert found["blocks.0.attn.qkv.bias"].tolist() == [1, 2, 3, 0, 0, 0, 7, 8, 9]
    assert found["norm.bias"].tolist() == [1, 1, 1] and state["blocks.0.attn.qkv.bias"][4] == 5


@pytest.mark.parametrize("taps", [(), (-1,), (0, 1)])
def test_taps_that_no_block_gives(taps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^taps="):
        DinoV2Discriminator(**TINY_V2 | {"taps": taps})


def test_dino_is_spectrally_normalised_and_reads_before_its_blocks() -> None:
    discriminator = DinoDiscriminator(weights="random", width=24, depth=1, num_heads=2, taps=(0,))
    assert len(discriminator.heads) == 2
    assert sum(name.endswith("weight_orig") for name in discriminator.state_dict()) == 2 * 3
    assert discriminator.trunk.side_for(64) == discriminator.trunk.side_for(512) == 224


def test_a_random_trunk_is_small_normals_and_zero_biases() -> None:
    vit = DinoV2Discriminator(**TINY_V2).trunk.vit
    for layer in (vit.blocks[0].attn.qkv, vit.blocks[0].mlp.fc1, vit.patch_embed.proj):
        assert float(layer.weight.std()) == pytest.approx(0.02, rel=0.1) and not layer.bias.any()
        assert float(layer.weight.mean()) == pytest.approx(0, abs=2e-3)
    assert torch.equal(vit.blocks[0].norm1.weight, torch.ones(32)) and not vit.blocks[0].norm1.bias.any()


def test_images_larger_than_the_trunks_are_cropped_half_the_time_at_every_place() -> None:
    discriminator, images = DinoV2Discriminator(**TINY_V2), torch.rand(1, 3, 29, 30)
    with torch.no_grad():
        shrunk = discriminator.eval()(images)
        crops = {
            (top, left): discriminator(images[..., top : top + 28, left : left + 28])
            for top in range(2)
            for left in range(3)
        }
        torch.testing.assert_close(shrunk, discriminator(F.interpolate(images, (28, 28), mode="area")))
        found = [discriminator.train()(images) for _ in range(200)]
        flat = discriminator(images[..., :28, :])  # one side fits already: no crop
        torch.testing.assert_close(flat, discriminator(F.interpolate(images[..., :28, :], (28, 28), mode="bicubic")))
        small = torch.rand(2, 3, 9, 20)
        torch.testing.assert_close(
            discriminator(small), discriminator(F.interpolate(small, (14, 14), mode="bicubic")), atol=1e-5, rtol=1e-4
        )
    whole = sum(torch.allclose(x, shrunk, atol=1e-6) for x in found)
    assert 70 < whole < 130
    for place, expected in crops.items():
        assert any(torch.allclose(x, expected, atol=1e-6) for x in found), place


def test_leaky_hinge_leaks_on_both_sides() -> None:
    found = DISCRIMINATOR_LOSSES["leaky_hinge"](torch.tensor([3.0, 0.0]), torch.tensor([-4.0, 1.0]))
    assert float(found) == pytest.approx(0.5 * ((-2 * 0.01 + 1) / 2 + (-3 * 0.01 + 2) / 2))


def test_llamagens_swapped_pair_by_hand() -> None:
    """Logit 1 (or 0) with the discriminator's output as the target: softplus(1) - target, and log 2."""
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-1.0, 0.25])
    softplus_1, log_2 = 1.31326169, 0.69314718
    found = llamagen_swapped_discriminator(real, fake)
    assert float(found) == pytest.approx(0.5 * (softplus_1 - 1.25 + log_2), rel=1e-6)
    assert float(llamagen_swapped_generator(fake)) == pytest.approx(softplus_1 + 0.375, rel=1e-6)


@pytest.mark.parametrize("part", [PatchGAN, ResidualPatchGAN])
def test_convolutions_start_as_centred_normals(part) -> None:
    discriminator = part(ndf=64, n_layers=2)
    for conv in (discriminator.stem, discriminator.blocks[1].conv, discriminator.head):
        weight = conv.weight.detach()
        assert float(weight.std()) == pytest.approx(0.02, rel=0.1)
        assert float(weight.mean()) == pytest.approx(0, abs=0.003)


def test_patchgans_norms_start_near_1_and_groups_are_32_at_most() -> None:
    norms = [block.norm.weight.detach() for block in PatchGAN(ndf=128).blocks]
    found = torch.cat(norms)
    assert float(found.std()) == pytest.approx(0.02, rel=0.15) and float(found.mean()) == pytest.approx(1, abs=0.003)
    groups = [block.norm.num_groups for block in PatchGAN(ndf=8, n_layers=3, norm="group").blocks]
    assert groups == [16, 32, 32]
