import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.losses.adversarial.adversary import Adversary
from imtok.losses.adversarial.lecam import LeCam
from imtok.losses.adversarial.patchgan import PatchGAN
from imtok.losses.total import WeightedLosses


def from_yaml(**changed):
    node = compose_config("train", ["adversary=patchgan"])["adversary"]
    node["discriminator"] |= {"ndf": 4, "n_layers": 1}
    return build(node | changed, key="adversary")


@pytest.fixture
def case(FakeTokenizer, images):
    tokenizer = FakeTokenizer()
    batch = {"image": images(2, 16, seed=1)}
    output = tokenizer(batch["image"])
    return tokenizer, batch, output, (output.reconstruction - batch["image"]).abs().mean()


def count_forwards(adversary):
    calls = []
    adversary.discriminator.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_phases_and_the_forwards_they_cost(FakeTokenizer, images):
    """start 4, warm-up 2, ramp 2: off, off, D, D, D+G half, D+G, ..."""
    adversary = from_yaml(start=4, discriminator_warmup=2, ramp=2, adaptive=None, weight=1.0)
    calls = count_forwards(adversary)
    seen = []
    for update in range(7):
        tokenizer, batch = FakeTokenizer(), {"image": images(2, 16)}
        output = tokenizer(batch["image"])
        adversary.set_update(update)
        _, logs = adversary.generator_loss(batch, output, torch.zeros(()), tokenizer.last_layer)
        if adversary.discriminator_active(update):
            adversary.discriminator_loss(batch, output)
        seen.append((len(calls), float(logs["gan_factor"])))
        calls.clear()
    assert seen == [(0, 0), (0, 0), (2, 0), (2, 0), (3, 0.5), (3, 1), (3, 1)]


def test_the_discriminator_is_fp32_inside_any_autocast_where_that_is_said(case):
    _, batch, output, _ = case
    for precision in ("auto", "fp32"):
        adversary, dtypes = from_yaml(start=0, adaptive=None, precision=precision), []
        adversary.discriminator.register_forward_hook(lambda m, i, o, dtypes=dtypes: dtypes.append(o.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            adversary.generator_loss(batch, output, torch.zeros(()), None)
            adversary.discriminator_loss(batch, output)
        assert dtypes == [torch.float32 if precision == "fp32" else torch.bfloat16] * 3


@pytest.mark.parametrize(("image_range", "lowest"), [("signed", -1.0), ("unit", 0.0)])
def test_the_range_that_the_discriminator_sees(image_range, lowest, case):
    """In all three of its forwards; what it gets back is a gradient of the reconstruction in [-1, 1]."""
    _, batch, output, _ = case
    adversary, seen = from_yaml(start=0, adaptive=None, weight=1.0, image_range=image_range), []
    adversary.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    adversary.generator_loss(batch, output, torch.zeros(()), None)
    adversary.discriminator_loss(batch, output)
    for given, image in zip(seen, (output.reconstruction, batch["image"], output.reconstruction), strict=True):
        torch.testing.assert_close((given - lowest) / (1 - lowest) * 2 - 1, image.detach())


def test_generator_pass_leaves_the_discriminator_alone(case):
    tokenizer, batch, output, nll = case
    adversary = from_yaml(start=0)
    loss, logs = adversary.generator_loss(batch, output, nll, tokenizer.last_layer)
    (nll + loss).backward()
    assert all(p.grad is None and p.requires_grad for p in adversary.parameters())
    assert tokenizer.trunk.weight.grad.abs().sum() > 0
    assert set(logs) == {"gan_generator", "gan_weight", "gan_factor"}
    assert not any(v.requires_grad for v in logs.values())
    assert float(loss.detach()) == pytest.approx(float(logs["gan_weight"] * logs["gan_generator"]))


def test_generator_pass_under_autocast_after_the_discriminator_ran(case):
    """Autocast remembers bf16 weights with their graph: they must not carry gradients to the discriminator."""
    tokenizer, batch, _, _ = case
    adversary = from_yaml(start=0, adaptive=None)
    with torch.autocast("cpu", torch.bfloat16):
        output = tokenizer(batch["image"])
        adversary.discriminator_loss(batch, output)
        loss, _ = adversary.generator_loss(batch, output, torch.zeros(()), tokenizer.last_layer)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is None for p in adversary.parameters())


def test_discriminator_pass_leaves_the_tokenizer_alone(case):
    tokenizer, batch, output, _ = case
    adversary = from_yaml(start=0, lecam=LeCam(weight=0.5), discriminator_weight=0.5)
    loss, logs = adversary.discriminator_loss(batch, output)
    loss.backward()
    assert all(p.grad is None for p in tokenizer.parameters())
    assert adversary.discriminator.stem.weight.grad.abs().sum() > 0
    assert set(logs) == {"gan_discriminator", "logits_real", "logits_fake", "lecam"}
    expected = 0.5 * (logs["gan_discriminator"] + 0.5 * logs["lecam"])
    torch.testing.assert_close(loss.detach(), expected)


def test_batch_norm_sees_each_side_by_itself(case):
    _, batch, output, _ = case
    adversary = from_yaml(start=0)
    _, logs = adversary.discriminator_loss(batch, output)
    assert int(adversary.discriminator.blocks[0].norm.num_batches_tracked) == 2
    torch.testing.assert_close(logs["logits_real"], adversary.discriminator(batch["image"]).detach().mean())


def test_weight_with_and_without_adaptive(case):
    tokenizer, batch, output, nll = case
    adaptive, fixed = from_yaml(start=0, weight=0.8), from_yaml(start=0, weight=0.8, adaptive=None)
    fixed.load_state_dict(adaptive.state_dict())
    _, logs = fixed.generator_loss(batch, output, nll, tokenizer.last_layer)
    assert float(logs["gan_weight"]) == pytest.approx(0.8)

    picture = output.reconstruction
    gan = -fixed.discriminator(picture).mean()
    norms = [torch.autograd.grad(v, tokenizer.last_layer, retain_graph=True)[0].norm() for v in (nll, gan)]
    _, logs = adaptive.generator_loss(batch, output, nll, tokenizer.last_layer)
    assert float(logs["gan_weight"]) == pytest.approx(float(0.8 * norms[0] / (norms[1] + 1e-4)), rel=1e-4)


@pytest.mark.parametrize(
    ("terms", "weights"),
    [
        (["l2", "l1"], {"l2": 5.0, "l1": 0.5}),  # as in `loss`
        ([{"l2": 1.0}, "l1"], {"l2": 1.0, "l1": 0.5}),  # DualToken: its 5 is no part of the ratio
        ({"l2": 1.0, "l1": 2.0}, {"l2": 1.0, "l1": 2.0}),
    ],
)
def test_the_ratio_takes_the_weights_that_it_is_given(case, terms, weights):
    tokenizer, batch, output, _ = case
    node = {
        name: {"weight": weight, "term": {"_target_": f"imtok.losses.pixel.{name.upper()}"}}
        for name, weight in {"l1": 0.5, "l2": 5.0}.items()
    }
    values = WeightedLosses.from_config(node, tokenizer)(batch, output, 0)
    adversary = from_yaml(start=0, weight=1.0, reconstruction_terms=terms)
    apart = output.reconstruction - batch["image"]
    by_hand = weights["l1"] * apart.abs().mean() + weights["l2"] * apart.square().mean()
    gan = -adversary.discriminator(output.reconstruction).mean()
    norms = [torch.autograd.grad(v, tokenizer.last_layer, retain_graph=True)[0].norm() for v in (by_hand, gan)]
    against = values.sum_of(adversary.reconstruction_terms)
    _, logs = adversary.generator_loss(batch, output, against, tokenizer.last_layer)
    assert float(logs["gan_weight"]) == pytest.approx(float(norms[0] / (norms[1] + 1e-4)), rel=1e-4)


def test_adaptive_weight_is_not_computed_while_off(case):
    tokenizer, batch, output, nll = case
    adversary = from_yaml(start=5)
    adversary.adaptive = None
    adversary.adaptive = lambda **_: pytest.fail("computed")
    loss, logs = adversary.generator_loss(batch, output, nll, tokenizer.last_layer)
    assert loss == 0 and logs["gan_weight"] == 0
    adversary.set_update(5)
    with torch.no_grad():  # validation: no gradients, so no ratio
        _, logs = adversary.generator_loss(batch, output, nll, tokenizer.last_layer)
    assert float(logs["gan_weight"]) == pytest.approx(0.8)


def test_weight_schedule_and_zero(case):
    tokenizer, batch, output, nll = case
    weight = {"start": 0.0, "end": 1.0, "updates": 4}
    adversary = from_yaml(start=0, adaptive=None, weight=weight)
    assert [adversary.generator_active(n) for n in range(3)] == [False, True, True]
    adversary.set_update(3)
    _, logs = adversary.generator_loss(batch, output, nll, tokenizer.last_layer)
    assert float(logs["gan_weight"]) == pytest.approx(0.75)


def test_the_discriminators_weight_may_change_with_the_update(case):
    """DualToken: 1 in its first epoch, 0.75 later."""
    _, batch, output, _ = case
    schedule = {"start": 1.0, "end": 0.75, "updates": 0, "after": 5}
    adversary, plain = from_yaml(discriminator_weight=schedule), from_yaml()
    plain.load_state_dict(adversary.state_dict())
    whole = float(plain.discriminator_loss(batch, output)[0].detach())
    for update, weight in ((4, 1.0), (5, 0.75)):
        adversary.set_update(update)
        found = float(adversary.discriminator_loss(batch, output)[0].detach())
        assert found == pytest.approx(weight * whole, rel=1e-5), update


def test_every_blur_fades_from_the_start_of_the_gan():
    """Of the discriminator's augmentation and of a second look of its own."""
    blur = {"_target_": "imtok.losses.adversarial.diff_augment.DiffAugment", "blur_updates": 10}
    consistency = {"_target_": "imtok.losses.adversarial.consistency.BalancedConsistency", "augment": blur}
    adversary = from_yaml(start=100, consistency=consistency)
    adversary.discriminator.augment = build(blur, key="augment")
    adversary.set_update(104)
    assert adversary.discriminator.augment.since_start == adversary.consistency.augment.since_start == 4


def test_state_round_trip(case):
    _, batch, output, _ = case
    node = {"_target_": "imtok.losses.adversarial.lecam.LeCam", "decay": 0.5}
    discriminator = {"_target_": "imtok.losses.adversarial.patchgan.PatchGAN", "ndf": 4, "n_layers": 1, "norm": "act"}
    first, second = (from_yaml(start=0, lecam=dict(node), discriminator=dict(discriminator)) for _ in range(2))
    first.discriminator_loss(batch, output)
    assert float(first.lecam.ema_real) != 0
    second.load_state_dict(first.state_dict())
    ours, _ = first.discriminator_loss(batch, output)
    theirs, _ = second.discriminator_loss(batch, output)
    assert torch.equal(ours, theirs)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_generator_loss_matches_by_default_and_can_differ():
    one = Adversary(discriminator=PatchGAN(ndf=4), gan_loss="non_saturating")
    other = Adversary(discriminator=PatchGAN(ndf=4), gan_loss="hinge", generator_loss="non_saturating")
    assert one.generator_form is other.generator_form
    assert one.discriminator_form is not other.discriminator_form


def test_optimizer_stays_a_node():
    optimizer = {"_target_": "torch.optim.Adam", "lr": 1e-4}
    assert from_yaml(optimizer=optimizer).optimizer == optimizer


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"gan_loss": "hing"}, "adversary.gan_loss=hing: no such loss; did you mean 'hinge'"),
        ({"generator_loss": "wgan"}, "adversary.generator_loss=wgan"),
        ({"start": -1}, "adversary.start=-1"),
        ({"start": 5, "discriminator_warmup": 6}, "adversary.discriminator_warmup=6"),
        ({"weight": "big"}, "adversary.weight=big"),
        ({"stat": 3}, "adversary.stat=3"),
        ({"reconstruction_terms": {"l1": "big"}}, "adversary.reconstruction_terms.l1=big"),
        ({"reconstruction_terms": [{"l1": None}]}, "adversary.reconstruction_terms.l1=None"),
        ({"reconstruction_terms": [{"l1": -1.0}]}, "adversary.reconstruction_terms.l1=-1.0"),
        ({"reconstruction_terms": ["l1", {"l1": 1.0}]}, "adversary.reconstruction_terms: l1"),
        ({"reconstruction_terms": [3]}, "adversary.reconstruction_terms=[3]"),
        ({"reconstruction_terms": "l1"}, "adversary.reconstruction_terms=l1"),
        ({"lecam": {"_target_": "imtok.losses.adversarial.lecam.LeCam", "beta": 1}}, "adversary.lecam.beta=1"),
    ],
)
def test_wrong_settings_name_their_key(changed, says):
    with pytest.raises(UserError) as caught:
        from_yaml(**changed)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_check_against_tokenizer_and_losses(FakeTokenizer):
    good = FakeTokenizer()
    from_yaml().check(good, ["l1", "codebook"])
    frozen = FakeTokenizer()
    frozen.conv_out.requires_grad_(False)
    for adversary, tokenizer, losses, says in (
        (from_yaml(reconstruction_terms=["l1", "lpisp"]), good, ["l1"], "'lpisp'; did you mean 'lpips'"),
        (from_yaml(reconstruction_terms={"l1": 1.0, "lpisp": 1.0}), good, ["l1"], "'lpisp'; did you mean 'lpips'"),
        (from_yaml(), good, ["codebook"], "adversary.adaptive=null"),
        (from_yaml(), FakeTokenizer(cheap=False), ["l1"], "adversary=none"),
        (from_yaml(), FakeTokenizer(image_size=(4, 16)), ["l1"], "data.image_size=[4, 16]"),
        (from_yaml(), frozen, ["l1"], "frozen last layer"),
    ):
        with pytest.raises(UserError) as caught:
            adversary.check(tokenizer, losses)
        assert says in str(caught.value) and "\n" not in str(caught.value)
    from_yaml(adaptive=None).check(frozen, ["codebook"])


def test_none_is_null():
    assert compose_config("train", ["adversary=none"])["adversary"] is None


def test_a_real_decoder_without_a_cheap_sample_is_refused(tokenizer_node, monkeypatch):
    from imtok.decoders.cnn import CNNDecoder

    tokenizer = build(tokenizer_node, key="tokenizer")
    from_yaml().check(tokenizer, ["l1"])
    monkeypatch.setattr(CNNDecoder, "cheap_sample", False)
    with pytest.raises(UserError, match=r"tokenizer\.decoder \(CNNDecoder\) gives no image in training"):
        from_yaml().check(tokenizer, ["l1"])
