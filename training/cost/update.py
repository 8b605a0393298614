"""Estimated cost of a training update: parameters, FLOPs, memory.

Everything runs on fake tensors (shapes without data), at the real batch size, through the same calls that training
makes: tokenizer, losses, adversary, backward.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ...common.build import build
from ...common.frozen import frozen_networks
from ...common.precision import DTYPES, chosen_arithmetic
from ...common.weights import left_out
from ...losses.adversarial.adversary import Adversary
from ...losses.teacher_term import TeacherTerm
from ...losses.total import WeightedLosses
from ...tokenizers.quantizers.base import Quantizer
from ...tokenizers.tokenizer import Tokenizer
from ..objectives import Objectives
from .shapes_only import LiveMemory, ShapesOnlyQuantizer, make_fake

OPTIMIZER_STATE = {"adam": 2, "adamw": 2, "sgd": 1}  # tensors of the parameter's size


@dataclass
class UpdateCost:
    """Parameters by part; FLOPs (a multiply-add is two) and bytes of one update."""

    parameters: dict[str, int]
    trained: dict[str, int]
    forward_flops: dict[str, int] = field(default_factory=dict)  # per image, one forward of the part
    update_flops: dict[str, int] = field(default_factory=dict)  # a whole update, by phase
    memory: dict[str, int] = field(default_factory=dict)  # bytes, by what holds them
    tokens_per_image: int = 0
    bits_per_image: float = 0.0
    codebook_size: int | tuple[int, ...] = 0
    precision: str = "fp32"  # what `auto` means on this machine
    notes: list[str] = field(default_factory=list)

    @property
    def total_memory(self) -> int:
        return sum(self.memory.values())


def count(module: nn.Module | None, *, trained: bool = False) -> int:
    """Parameters, each shared one once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained) if module is not None else 0


def tokenizer_parameters(tokenizer: nn.Module, *, trained: bool = False) -> dict[str, int]:
    """By part, in the order in which data passes."""
    return {name: count(part, trained=trained) for name, part in tokenizer.named_children()}


def update_cost(config: Mapping[str, Any]) -> UpdateCost:
    """config: a composed and resolved train config."""
    from ...losses.teachers.registry import NamedTeachers
    from ..init_from import freeze_parts

    mode = FakeTensorMode()
    with mode, left_out():  # a cost does not depend on values
        tokenizer: Tokenizer = build(config["tokenizer"], key="tokenizer")
    freeze_parts(tokenizer, config.get("freeze") or ())
    cost = UpdateCost(
        parameters=tokenizer_parameters(tokenizer),
        trained=tokenizer_parameters(tokenizer, trained=True),
        tokens_per_image=tokenizer.num_tokens,
        bits_per_image=tokenizer.bits_per_image,
        codebook_size=tokenizer.codebook_size,
    )
    with left_out():  # not every frozen network can be built of fake tensors: real ones are replaced below
        adversary: Adversary | None = build(config["adversary"], key="adversary") if config.get("adversary") else None
        losses = WeightedLosses.from_config(config["loss"], tokenizer, NamedTeachers(config.get("teacher")))
    if adversary is not None:
        cost.parameters["discriminator"] = count(adversary.discriminator)
        cost.trained["discriminator"] = count(adversary.discriminator, trained=True)
    for name, term in losses.terms.items():
        for network in frozen_networks(term):
            what = name if term.teacher is None else f"teacher {term.teacher}"
            cost.parameters[f"{what} (frozen)"] = count(network)
        if count(term):
            cost.parameters[f"loss {name}"], cost.trained[f"loss {name}"] = count(term), count(term, trained=True)

    batch, (height, width) = int(config["data"]["batch_size"]), tokenizer.image_size
    trainer = config["trainer"]
    arithmetic = chosen_arithmetic(
        precision=trainer.get("precision", "auto"),
        channels_last=trainer.get("channels_last", "auto"),
        accelerator=trainer.get("accelerator", "auto"),
    )
    cost.precision, dtype = arithmetic.precision, DTYPES[arithmetic.precision]
    for part in (losses, adversary) if adversary is not None else (losses,):
        make_fake(part, mode)
    with mode:
        images = torch.empty(batch, 3, height, width)
        if arithmetic.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
    with mode:
        try:
            tokenizer.train().quantizer(tokenizer.encoder(_seen(tokenizer, images[:2])))
        except (DataDependentOutputException, DynamicOutputShapeException):
            tokenizer.quantizer = cast(Quantizer, ShapesOnlyQuantizer(tokenizer.quantizer))
            cost.notes.append("what the quantizer does in training only (running means, revival) is not counted")
        conditions = None
        if tokenizer.conditioner is not None:
            conditions = torch.empty(batch, tokenizer.conditioner.length, tokenizer.conditioner.dim)
            cost.notes.append("the frozen text tower, which encodes the captions, is not counted")
        _forward_flops(cost, tokenizer, losses, adversary, images[:1], None if conditions is None else conditions[:1])
        dynamic = 0
        objectives = Objectives(tokenizer=tokenizer, losses=losses, adversary=adversary)
        for phase, update in _phases(adversary, int(trainer["max_updates"])).items():
            flops, peak = _measure_update(objectives, images, update, dtype, conditions)
            cost.update_flops[phase] = flops * int(trainer.get("accumulate", 1))
            dynamic = max(dynamic, peak)
    trained = sum(cost.trained.values())
    states = OPTIMIZER_STATE.get(config["optimizer"].get("name", "adam"), 2)
    buffers = sum(
        b.numel() * b.element_size() for part in (tokenizer, adversary, losses) if part for b in part.buffers()
    )
    cost.memory = {
        "parameters": 4 * sum(cost.parameters.values()) + buffers,
        "gradients": 4 * trained,
        "optimizer": 4 * states * trained,
        "EMA": 4 * sum(cost.parameters[name] for name, _ in tokenizer.named_children()) if trainer.get("ema") else 0,
        "activations": max(dynamic - 4 * trained, 0),
    }
    return cost


def _phases(adversary: Adversary | None, max_updates: int) -> dict[str, int]:
    """An update of each kind that the run will see."""
    if adversary is None:
        return {"update": 0}
    at = adversary.start + adversary.ramp
    phases = {f"with GAN (from update {adversary.start})": at} if adversary.start < max_updates else {}
    first_discriminator = adversary.start - adversary.discriminator_warmup
    if first_discriminator < adversary.start:
        phases = {f"discriminator warm-up (from update {first_discriminator})": first_discriminator} | phases
    return ({"before the GAN": 0} if first_discriminator > 0 else {}) | phases


def _seen(tokenizer: Tokenizer, images: Tensor) -> Tensor:
    """The input of the encoder."""
    return images if tokenizer.space is None else tokenizer.space.encode(images)


def _forward_flops(
    cost: UpdateCost,
    tokenizer: Tokenizer,
    losses: WeightedLosses,
    adversary: Adversary | None,
    image: Tensor,
    conditions: Tensor | None,
) -> None:
    with torch.no_grad():
        if tokenizer.space is not None:
            with _flops() as flops:
                seen = tokenizer.space.encode(image)
            cost.forward_flops["space (in)"] = flops.get_total_flops()
        else:
            seen = image
        with _flops() as flops:
            latents = tokenizer.encoder(seen)
        cost.forward_flops["encoder"] = flops.get_total_flops()
        with _flops() as flops:
            quantized = tokenizer.quantizer(latents)
        cost.forward_flops["quantizer"] = flops.get_total_flops()
        with _flops() as flops:
            made = tokenizer.decode(quantized.codes, conditions=conditions)
        cost.forward_flops["decoder"] = flops.get_total_flops()
        for name, term in losses.terms.items():
            networks: Sequence[nn.Module] = [] if isinstance(term, TeacherTerm) else frozen_networks(term)
            for network in networks:
                with _flops() as flops:
                    network(made, image) if term.needs_reconstruction else network(image)
                what = "both images" if term.needs_reconstruction else "frozen"
                cost.forward_flops[f"{name} ({what})"] = flops.get_total_flops()
            if isinstance(term, TeacherTerm) and f"teacher {term.teacher}" not in cost.forward_flops:
                with _flops() as flops:
                    term.network(image)
                cost.forward_flops[f"teacher {term.teacher}"] = flops.get_total_flops()
        if adversary is not None:
            with _flops() as flops:
                adversary.discriminator.eval()(made)
            # Random augmentation looks at values, which fake tensors have not.
            adversary.discriminator.train(not hasattr(adversary.discriminator, "augment"))
            cost.forward_flops["discriminator"] = flops.get_total_flops()


def _measure_update(
    objectives: Objectives, images: Tensor, update: int, dtype: torch.dtype | None, conditions: Tensor | None = None
) -> tuple[int, int]:
    """(FLOPs, peak bytes of what the update makes: activations, gradients, temporaries)."""
    parts = [p for p in (objectives.tokenizer, objectives.losses, objectives.adversary) if p is not None]
    for part in parts:
        part.zero_grad(set_to_none=True)
    objectives.set_update(update)
    images = images.clone()  # teachers run once per batch, which they know by its tensor
    batch = {"image": images, "label": torch.zeros(len(images), dtype=torch.int64), "key": [""] * len(images)}
    batch["caption"] = ["an image"] * len(images)
    memory = LiveMemory()
    memory.ignore(t for part in parts for t in (*part.parameters(), *part.buffers()))
    with memory, _flops() as flops:
        with _cast(dtype):
            total, output, _ = objectives.generator(batch, conditions, update)
        total.backward()
        del total
        if objectives.trains_discriminator(update):
            with _cast(dtype):
                loss, _ = objectives.discriminator(batch, output)
            loss.backward()
    return flops.get_total_flops(), memory.peak


def _cast(dtype: torch.dtype | None) -> AbstractContextManager:
    return torch.autocast("cpu", dtype=dtype) if dtype else nullcontext()


@contextmanager
def _flops() -> Iterator[FlopCounterMode]:
    with FlopCounterMode(display=False) as counter:
        yield counter
