"""N micro-batches are the one batch: every experiment's objective, its gradients and what its update moves.

Or the experiment is refused by name, and equal with what the refusal says. Apart are draws (constants here), batch norm
(in eval mode here) and the power iterations of spectral norm (none here): each micro-batch has its own.
"""

import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._python_dispatch import TorchDispatchMode

from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.losses.adversarial.frozen_trunk import FrozenTrunkDiscriminator, LocalBatchNorm
from imtok.training.factory import build_training
from imtok.training.module import TokenizerTraining

from .test_experiments import LIKE, NAMES

FIXED_WEIGHT = ("adversary.adaptive", ["adversary.adaptive=null"])
ONE_GPU = ("adversary.lecam.images", ["adversary.lecam.images=2"])
# At the published temperature of 0.01 rounding alone shows in the third digit of an entropy's gradient.
IN_GROUPS = ["tokenizer.quantizer.entropy_images=2", "+adversary.lecam.means_first=false"]
LATE_MEANS = [*IN_GROUPS, "+tokenizer.quantizer.temperature=0.5"]
NOT_TRIED: list[str] = []  # no setting makes the recipe one of micro-batches
CONTRAST = ["loss.semantic_infonce=null", "adversary.adaptive=null", "+adversary.lecam.means_first=false"]
DUAL = ["+tokenizer.quantizer.quantizers.pixel.learn_once=true", "adversary.adaptive=null"]
# What the first refusal names, and all that has to change: another recipe, which the user then knows.
REFUSED: dict[str, tuple[str, list[str]]] = {
    "dualtoken_256": ("tokenizer.quantizer.quantizers.pixel.learn_once", DUAL),
    "dualtoken_256_stage0": ("tokenizer.quantizer.quantizers.pixel.learn_once", DUAL[:1]),
    "gigatok_xlxxl": ("tokenizer.quantizer.entropy_images", ["+tokenizer.quantizer.entropy_images=2"]),
    "ibq_16384": ("trainer.accumulate", [*IN_GROUPS, "adversary.order=generator_first"]),
    "imagefolder": ("loss.semantic_infonce", NOT_TRIED),
    "instella_bae": FIXED_WEIGHT,
    "maskgit_vqgan": FIXED_WEIGHT,
    "one_d_piece_s256/stage2": ONE_GPU,
    "open_magvit2_256": ("tokenizer.quantizer.entropy_images", LATE_MEANS),
    "open_magvit2_pretrain_16384": ("tokenizer.quantizer.entropy_images", LATE_MEANS),
    "open_magvit2_pretrain_262144": ("tokenizer.quantizer.entropy_images", LATE_MEANS),
    "quickstart_clip": ("loss.clip_infonce", ["loss.clip_infonce=null"]),
    "robusttok": ("loss.semantic_infonce", NOT_TRIED),
    "ta_titok_bl32_vae": ONE_GPU,
    "ta_titok_bl32_vq": ONE_GPU,
    "titok_bl64_vae": ONE_GPU,
    "titok_bl64_vq": ONE_GPU,
    "titok_s128/stage2": ONE_GPU,
    "tokenbridge": FIXED_WEIGHT,
    "unitok": ("loss.clip_infonce", ["loss.clip_infonce=null", "adversary.adaptive=null"]),
    "unitok_clip": ("loss.clip_infonce", ["loss.clip_infonce=null", "adversary.adaptive=null"]),
    "vqgan_f16_16384": FIXED_WEIGHT,
    "wetok_general_f32_generative": ("adversary.lecam.form", IN_GROUPS[1:]),
    "wetok_general_f8_32bit": ("tokenizer.quantizer.entropy_images", LATE_MEANS),
    "wetok_imagenet_f16": ("tokenizer.quantizer.entropy_images", LATE_MEANS),
    "xqgan_msbr10p2_4096": ("tokenizer.quantizer.entropy_images", NOT_TRIED),
    "xqgan_msvr10p2_8192": ("loss.semantic_infonce", NOT_TRIED),
    "xqgan_vp2_4096": ("loss.semantic_infonce", NOT_TRIED),
    "xqgan_vq_4096": ("loss.semantic_infonce", CONTRAST),
}
FAST = ("dualtoken_256_stage0", "open_magvit2_256", "titok_s128/stage2")
MOVES = {  # what one of the micro-batches alone would move elsewhere
    "dualtoken_256_stage0": "tokenizer.quantizer.quantizers.semantic.books.0.sums",
    "quickstart_dual": "tokenizer.quantizer.quantizers.semantic.revival.usage",
    "ta_titok_bl32_vq": "tokenizer.quantizer.codebook",
    "titok_s128/stage2": "adversary.lecam.ema_real",
}
TESTED = [name for name in NAMES if name not in LIKE]
IMAGES, MICRO_BATCHES, UPDATE = 4, 2, 5


class Constants(TorchDispatchMode):
    """Every draw is a constant, whatever the number of images."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in func.tags or isinstance(drawn, tuple):  # attention, without dropout
            return drawn
        name = func.overloadpacket.__name__
        if "randperm" in name:
            return drawn.copy_(torch.arange(len(drawn)))
        if "randint" in name:
            bounds = [a for a in args if isinstance(a, int)]
            return drawn.fill_(bounds[0] if len(bounds) > 1 else 0)
        return drawn.fill_(1 if "bernoulli" in name else 0.4)


def made(name: str, folder: Path, *words: str) -> tuple[TokenizerTraining, list[dict[str, Any]]]:
    """The training of an experiment in small, with the GAN from the first update on, and its micro-batches."""
    tiny = [f"experiment={name}", "debug=tiny", "data=generated", "trainer.threads=1", f"data.batch_size={IMAGES}"]
    config = compose_config("train", [*tiny, f"trainer.accumulate={MICRO_BATCHES}", *words])
    if config["adversary"]:
        config["adversary"] |= {"start": 0, "discriminator_warmup": 0, "ramp": 0}
    training, data = build_training(config, folder)
    training.train()
    for module in training.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        if isinstance(module, LocalBatchNorm):
            module.group = 2
        if isinstance(module, FrozenTrunkDiscriminator):
            module.crop_chance = 0.0  # drawn by the host, once a forward
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                hook.n_power_iterations = 0
    loader = data.train_loader(num_batches=MICRO_BATCHES)
    return training, [data.prepare_batch(batch, "cpu") for batch in loader]


def joined(batches: list[dict[str, Any]]) -> dict[str, Any]:
    parts = {key: [batch[key] for batch in batches] for key in batches[0]}
    return {
        k: torch.cat(v) if isinstance(v[0], Tensor) else joined(v) if isinstance(v[0], dict) else [*chain(*v)]
        for k, v in parts.items()
    }


def update(
    training: TokenizerTraining, batches: list[dict[str, Any]]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """(gradients, what the forward may move, the logged values)"""
    objectives, logged = training.objectives, dict[str, float]()
    training.zero_grad(set_to_none=True)
    with Constants():
        objectives.set_update(UPDATE)
        if len(batches) > 1:
            objectives.begin_update()
        for batch in batches:
            total, output, logs = objectives.generator(batch, training.tokenizer.conditions_of(batch), UPDATE)
            (total / len(batches)).backward()
            if objectives.trains_discriminator(UPDATE):
                loss, more = objectives.discriminator(batch, output)
                (loss / len(batches)).backward()
                logs = logs | more
            for key, value in logs.items():
                logged[key] = logged.get(key, 0.0) + float(value.detach()) / len(batches)
        objectives.finish_update()
    gradients = {name: p.grad.clone() for name, p in training.named_parameters() if p.grad is not None}
    state = [*training.named_buffers(), *training.named_parameters()]
    return gradients, {name: value.detach().clone() for name, value in state}, logged


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To 5 % of each one's length, as rounding turns signs (L1, ReLU of LPIPS) around; the logged values are compared
    more closely. Gradients of biases before a norm are all rounding.
    """
    assert set(found) == set(expected)
    floor = 1e-4 * max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 5e-2 * float(gradient.norm()) + floor, name


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in TESTED]
)
def test_micro_batches_are_the_batch(name: str, tmp_path: Path) -> None:
    key, words = REFUSED.get(name, ("", []))
    if key:
        with pytest.raises(UserError, match=rf"^{re.escape(key)}[.=:]") as caught:
            made(name, tmp_path)
        said = str(caught.value)
        assert "trainer.accumulate=2" in said or "whole groups" in said
        if not words:
            return
    training, batches = made(name, tmp_path, *words)
    before = {key: value.clone() for key, value in training.state_dict().items()}
    expected = update(training, [joined(batches)])
    training.load_state_dict(before)
    found = update(training, batches)
    assert_equal_gradients(found[0], expected[0])
    for key, value in expected[1].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
    assert found[2] == pytest.approx(expected[2], rel=1e-3, abs=1e-5)
    moved = MOVES.get(name)
    assert moved is None or not torch.equal(before[moved], found[1][moved]), f"{moved} stands still"


@pytest.mark.slow
def test_the_adaptive_weight_of_each_micro_batch_is_that_of_each_gpu(tmp_path: Path) -> None:
    training, batches = made("vqgan_f16_16384", tmp_path, "+adversary.adaptive.per_device=true")
    gpus = [update(training, [batch]) for batch in batches]
    found, _, logged = update(training, batches)
    assert_equal_gradients(found, {key: (gpus[0][0][key] + gpus[1][0][key]) / 2 for key in gpus[0][0]})
    weights = [gpu[2]["gan_weight"] for gpu in gpus]
    assert logged["gan_weight"] == pytest.approx(sum(weights) / 2) and weights[0] != pytest.approx(weights[1], rel=1e-3)
