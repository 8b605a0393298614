"""The update of every experiment on fake CUDA tensors: nothing makes the host wait for the device.

Fake tensors have a shape and a device and no values, so that no GPU is needed, and whoever asks for a value is found:
`.item()`, `if tensor`, a mask as an index, a copy to the host. A copy from the host waits as well unless it says
non_blocking. What is left out is the backward pass, which autograd does not run for a device that is not there, and so
the adaptive weight, which runs it in the forward.
"""

import warnings
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from imtok.common.devices import moved
from imtok.common.frozen import modules_within
from imtok.configs.compose import compose_config
from imtok.training.factory import build_training
from imtok.training.module import TokenizerTraining
from imtok.training.optim.ema import EMA
from imtok.training.optim.stepper import Stepper

NAMES = run_path(str(Path(__file__).parents[1] / "smoke" / "test_experiments.py"))["NAMES"]
QUICK = {"llamagen_vq16", "unitok_clip"}
TINY = ["debug=tiny", "data=generated", "evaluate_after=false", "trainer.threads=1", "weights=random"]
CUDA = torch.device("cuda", 0)


class Waits(TorchDispatchMode):
    """Answers questions to the CPU's tensors, which cost nothing; refuses copies from the host that wait."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "cpu":
            return _zero(args[0].dtype)
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and result.device.type == "cuda":
            sources = [a for a in args[:2] if isinstance(a, Tensor) and a.device.type == "cpu"]
            copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
            assert not (copies and sources) or kwargs.get("non_blocking") or True in args[2:], "a copy that waits"
        if isinstance(result, Tensor) and result.device.type == "cpu" and function is torch.ops.aten._to_copy.default:
            assert args[0].device.type == "cpu", "a copy to the host"
        return result


def _zero(dtype: torch.dtype) -> bool | int | float:
    return False if dtype is torch.bool else 0.0 if dtype.is_floating_point else 0


def to_fake_cuda(module: nn.Module, mode: FakeTensorMode) -> None:
    for part in modules_within(module):
        for store in (part._parameters, part._buffers):
            for name, tensor in store.items():
                if tensor is None or isinstance(tensor, FakeTensor):
                    continue
                real = tensor.detach()
                with mode:
                    fake = mode.from_tensor(real).to(CUDA)
                    kept = isinstance(tensor, nn.Parameter)
                    store[name] = nn.Parameter(fake, requires_grad=tensor.requires_grad) if kept else fake


def training_of(name: str, *words: str) -> TokenizerTraining:
    given = [f"experiment={name}", *TINY, *words]
    training, _ = build_training(compose_config("train", given), Path("."))
    return training.train()


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_an_update_asks_the_device_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is left out when costs are planned on fake tensors is to be seen here.
    monkeypatch.setattr("imtok.common.types.FakeTensor", ())
    training = training_of(name)
    objectives, tokenizer, adversary = training.objectives, training.tokenizer, training.adversary
    mode = FakeTensorMode()
    for part in (tokenizer, training.losses, adversary):
        if part is not None:
            to_fake_cuda(part, mode)
    with mode:
        batch = {
            "image": torch.rand(2, 3, *tokenizer.image_size, device=CUDA) * 2 - 1,
            "label": torch.zeros(2, dtype=torch.int64, device=CUDA),
            "caption": ["a red circle", "a blue square"],
            "key": ["a", "b"],
        }
    update = 1
    if adversary is not None:
        adversary.adaptive = None
        update = adversary.start + adversary.ramp

    def forward() -> None:
        objectives.set_update(update)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            total, output, logs = objectives.generator(batch, tokenizer.conditions_of(batch), update)
            assert {total.device, *(value.device for value in logs.values())} == {CUDA}
            if objectives.trains_discriminator(update):
                objectives.discriminator(batch, output)

    with mode, Waits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # autocast says that there is no CUDA
        forward()
        objectives.begin_update()  # and as a micro-batch
        forward()
        objectives.finish_update()
        for network in training.networks.values():
            stepper = Stepper(network, max_updates=9, clip=1.0, scaler=None)
            for parameter in stepper.parameters:
                parameter.grad = torch.zeros_like(parameter)
            assert stepper.finish_gradients().device == CUDA
            stepper.clip_gradients()
            stepper.optimizer.step()
        ema = EMA(tokenizer=tokenizer)
        ema.update(tokenizer, 1)


def test_what_waits_is_seen() -> None:
    with FakeTensorMode(), Waits():
        here, there = torch.ones(3), torch.ones(3, device=CUDA)
        assert int(here.sum()) == 0, "the CPU's own numbers are at hand"
        there.copy_(here, non_blocking=True)
        moved(here, CUDA)
        for wait in (
            lambda: float(there.sum()),
            lambda: there[there > 0],
            lambda: there.nonzero(),
            lambda: here.to(CUDA),
            lambda: torch.tensor([1.0], device=CUDA),
            lambda: there.cpu(),
            lambda: there[[0, 2]],
        ):
            with pytest.raises((AssertionError, DataDependentOutputException, DynamicOutputShapeException)):
                wait()
