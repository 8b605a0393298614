"""Costs against counts made another way: the published sizes, real tensors, and the memory a process really took."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from imtok.common.build import build
from imtok.configs.compose import compose_config
from imtok.training.cost.shapes_only import LiveMemory
from imtok.training.cost.update import count, update_cost

SIZES = {"channels": 32, "channel_multipliers": [1, 2], "blocks_per_level": 1, "z_channels": 16, "attention_levels": []}


def config(*, image_size=32, batch_size=4, adversary=None, lpips=False, quantizer="vq.VQ", sizes=SIZES, **trainer):
    terms = {"l1": {"term": {"_target_": "imtok.losses.pixel.L1"}}}
    if lpips:
        terms["lpips"] = {"term": {"_target_": "imtok.losses.lpips.LPIPS", "weights": "pretrained"}}
    return {
        "tokenizer": {
            "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
            "image_size": image_size,
            "encoder": {"_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder", "dim": 8, **sizes},
            "quantizer": {"_target_": f"imtok.tokenizers.quantizers.{quantizer}", "codebook_size": 64},
            "decoder": {"_target_": "imtok.decoders.cnn.CNNDecoder", **sizes},
        },
        "loss": terms,
        "adversary": adversary,
        "data": {"batch_size": batch_size},
        "optimizer": {"name": "adam"},
        "trainer": {"max_updates": 100, "precision": "fp32", **trainer},
    }


GAN = {
    "_target_": "imtok.losses.adversarial.adversary.Adversary",
    "discriminator": {"_target_": "imtok.losses.adversarial.patchgan.PatchGAN", "ndf": 8, "n_layers": 1},
    "start": 10,
}


def test_published_parameter_counts():
    """29.30 M and 42.45 M (methods sheet, B1), without the 1x1 projections to and from the quantizer."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        encoder = build({"_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder"}, key="encoder")
        decoder = build({"_target_": "imtok.decoders.cnn.CNNDecoder"}, key="decoder")
    assert round((count(encoder) - count(encoder.project)) / 1e6, 2) == 29.30
    assert round((count(decoder) - count(decoder.project)) / 1e6, 2) == 42.45


def test_flops_equal_those_of_real_tensors():
    cost = update_cost(config())
    tokenizer = build(config()["tokenizer"], key="tokenizer").train()
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    with FlopCounterMode(display=False) as real:
        (tokenizer(images).reconstruction - images).abs().mean().backward()
    assert cost.update_flops == {"update": real.get_total_flops()}
    # The input needs no gradient and two matrices of codes are read, so a little less than three forwards.
    forward = sum(cost.forward_flops.values()) * 4
    assert 2.7 < real.get_total_flops() / forward <= 3.0


def test_gan_phases_and_frozen_parts():
    cost = update_cost(config(adversary=GAN, lpips=True))
    before, after = cost.update_flops.values()
    assert list(cost.update_flops) == ["before the GAN", "with GAN (from update 10)"]
    # Generator pass: forward and gradient of the input; own pass: two forwards, each with a full backward.
    discriminator = cost.forward_flops["discriminator"] * 4
    assert 6.5 < (after - before) / discriminator <= 8.0
    assert cost.parameters["lpips (frozen)"] == 14_714_688, "VGG16's convolutions"
    assert "lpips (frozen)" not in cost.trained and cost.trained["discriminator"] > 0


@pytest.mark.parametrize("quantizer", ["vq.VQ", "ema_vq.EmaVQ"])
def test_every_quantizer_can_be_planned(quantizer):
    cost = update_cost(config(quantizer=quantizer))
    assert cost.tokens_per_image == 256 and cost.bits_per_image == 256 * 6 and cost.total_memory > 0


def test_memory_parts():
    plain, mean = update_cost(config()), update_cost(config(ema={"decay": 0.9}))
    parameters = sum(plain.parameters.values())
    assert plain.memory["gradients"] == 4 * parameters and plain.memory["optimizer"] == 8 * parameters
    assert plain.memory["EMA"] == 0 and mean.memory["EMA"] == 4 * parameters
    double = update_cost(config(batch_size=8))
    assert 1.8 < double.memory["activations"] / plain.memory["activations"] < 2.1
    assert update_cost(config(precision="bf16")).memory["activations"] < 0.8 * plain.memory["activations"]


WARM_UP = "discriminator warm-up (from update {})"


@pytest.mark.parametrize(
    ("schedule", "phases"),
    [
        ({"start": 1, "discriminator_warmup": 1}, [WARM_UP.format(0), "with GAN (from update 1)"]),
        ({"start": 0}, ["with GAN (from update 0)"]),
        ({"start": 100}, ["before the GAN"]),
        (
            {"start": 9, "discriminator_warmup": 4},
            ["before the GAN", WARM_UP.format(5), "with GAN (from update 9)"],
        ),
        (
            {"start": 9, "discriminator_warmup": 9},
            ["discriminator warm-up (from update 0)", "with GAN (from update 9)"],
        ),
    ],
)
def test_phases_are_those_that_the_run_will_see(schedule, phases):
    assert list(update_cost(config(adversary=GAN | schedule)).update_flops) == phases


def test_accumulation_optimizer_and_buffers_are_counted():
    plain, threefold = update_cost(config(quantizer="ema_vq.EmaVQ")), update_cost(config(batch_size=12, accumulate=3))
    assert threefold.update_flops["update"] == 3 * update_cost(config()).update_flops["update"]
    momentum = update_cost(config() | {"optimizer": {"name": "sgd"}}).memory["optimizer"]
    assert momentum == threefold.memory["optimizer"] / 2 == 4 * sum(threefold.trained.values())
    tokenizer = build(config(quantizer="ema_vq.EmaVQ")["tokenizer"], key="tokenizer")
    buffers = sum(b.numel() * b.element_size() for b in tokenizer.buffers())
    assert buffers > 0 and plain.memory["parameters"] == 4 * sum(plain.parameters.values()) + buffers


def test_live_memory_counts_what_is_alive():
    memory = LiveMemory()
    with memory:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b * 2
        view = c[:10]
        assert memory.now == 8000 and memory.peak == 8000
        del b, c
        assert memory.now == 4000  # the view keeps c's storage
        del view
    assert memory.now == 0


# Measured in a process of its own: the growth of the peak resident set over four updates.
MEASURE = """
import sys, torch
torch.set_num_threads(1)
import json
from imtok.common.build import build
from imtok.configs.compose import compose_config
config = json.loads(sys.argv[1])
tokenizer = build(config["tokenizer"], key="tokenizer").train()
images = torch.rand(config["data"]["batch_size"], 3, 64, 64) * 2 - 1
def peak():  # of this program alone: ru_maxrss also counts what forked it
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
def step():
    (tokenizer(images[:1]).reconstruction).mean().backward(); tokenizer.zero_grad()
step()
before = peak()
optimizer = torch.optim.Adam(tokenizer.parameters(), fused=True)
for _ in range(2):
    optimizer.zero_grad()
    (tokenizer(images).reconstruction - images).abs().mean().backward()
    optimizer.step()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_estimate_is_within_a_factor_of_a_real_run():
    """Factor 1.5 either way."""
    import json

    given = config(image_size=64, batch_size=5, sizes={**SIZES, "channels": 64})
    cost = update_cost(given)
    estimate = sum(v for k, v in cost.memory.items() if k != "parameters") / 2**10
    code = MEASURE
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(given)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    measured = int(result.stdout)
    assert 1 / 1.5 < estimate / measured < 1.5, (estimate, measured)


def test_frozen_trunks_and_teachers_are_counted_without_their_files(monkeypatch, tmp_path):
    """XQ-GAN has a discriminator on DINO, a DINOv2 teacher and a term whose rows depend on values."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cost = update_cost(compose_config("train", ["experiment=xqgan_vq_4096", "debug=tiny", "weights=pretrained"]))
    assert cost.parameters["lpips (frozen)"] == 14_714_688  # VGG16's convolutions
    assert cost.parameters["teacher dinov2_b_16 (frozen)"] > 0
    assert cost.parameters["discriminator"] == cost.trained["discriminator"]  # the heads alone
    assert all(flops > 0 for flops in cost.update_flops.values())
    assert not list(tmp_path.iterdir())
