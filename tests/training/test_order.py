"""The discriminator may step first; the generator's loss then sees the stepped one, on the same reconstruction."""

import copy

import pytest
import torch
import torch.nn.functional as F

from imtok.common.errors import UserError

SGD = {"name": "sgd", "lr": 0.05}
HOW = {"max_updates": 1, "clip": None, "optimizer": SGD, "ema": None}
GAN = {"start": 0, "weight": 0.3, "reconstruction_terms": ["l1"]}


@pytest.mark.parametrize("order", ["generator_first", "discriminator_first"])
def test_equals_an_update_written_out(make_run, order):
    run = make_run(adversary={**GAN, "order": order}, **HOW)
    tokenizer, critic = copy.deepcopy(run.tokenizer), copy.deepcopy(run.training.adversary.discriminator)
    run.fit()

    images = torch.stack([run.data._sample(n)["image"] for n in range(2)])
    tokenizer.train(), critic.train()
    output = tokenizer(images)
    made = output.reconstruction

    def step_critic() -> None:
        real, fake = critic(images), critic(made.detach())
        (0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())).backward()
        torch.optim.SGD(critic.parameters(), lr=0.05).step()

    if order == "discriminator_first":
        step_critic()
    losses = output.quantized.losses
    total = (made - images).abs().mean() + losses["codebook"] + 0.25 * losses["commit"] - 0.3 * critic(made).mean()
    gradients = torch.autograd.grad(total, list(tokenizer.parameters()))
    if order == "generator_first":
        step_critic()
    with torch.no_grad():
        for parameter, gradient in zip(tokenizer.parameters(), gradients, strict=True):
            parameter -= 0.05 * gradient
    for mine, wanted in ((run.tokenizer, tokenizer), (run.training.adversary.discriminator, critic)):
        for (name, value), other in zip(mine.named_parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-7, msg=name)


def test_the_order_shows(make_run):
    ends = [
        make_run(order, adversary={**GAN, "order": order}, **HOW).fit().tokenizer.decoder.last_layer
        for order in ("generator_first", "discriminator_first")
    ]
    assert not torch.equal(*ends)


def test_a_bad_batch_steps_neither_network(make_run, toy_data):
    first = {**GAN, "order": "discriminator_first"}
    good = make_run("good", adversary=first, **HOW).fit()
    run = make_run("bad", adversary=first, data=toy_data(bad=frozenset({2})), **(HOW | {"max_updates": 2})).fit()
    assert run.training.update == 2 and run.training.guard.skipped == 1
    for kind in ("tokenizer", "adversary"):
        for name, value in getattr(good.training, kind).state_dict().items():
            assert torch.equal(getattr(run.training, kind).state_dict()[name], value), name


def test_several_micro_batches_are_refused(make_run):
    with pytest.raises(UserError, match=r"trainer.accumulate=2: .*discriminator_first"):
        make_run(adversary={**GAN, "order": "discriminator_first"}, accumulate=2)
    make_run(adversary=GAN, accumulate=2)


def test_the_discriminator_sees_zero_to_one(make_run):
    run = make_run(adversary={**GAN, "image_range": "unit"}, **HOW)
    seen: list[torch.Tensor] = []
    run.training.adversary.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    run.fit()
    images = torch.stack([run.data._sample(n)["image"] for n in range(2)])
    fake, real, again = seen
    torch.testing.assert_close(real, (images + 1) / 2)
    assert torch.equal(fake, again)
