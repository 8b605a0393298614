"""Estimated cost of a training update: parameters, FLOPs, memory.

Everything runs on fake tensors (shapes without data), at the real batch size, through the same calls that training
makes: tokenizer, losses, adversary, backward.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ...common.build import build, build_as
from ...common.frozen import frozen_networks
from ...common.precision import DTYPES
from ...common.weights import left_out
from ...data.batch_division import BatchDivision, divide_batch
from ...losses.adversarial.adversary import Adversary
from ...losses.teacher_term import TeacherTerm
from ...losses.total import WeightedLosses
from ...tokenizers.quantizers.base import Quantizer
from ...tokenizers.tokenizer import Tokenizer
from ..fsdp2 import sharded_blocks
from ..micro_batches import check_division
from ..objectives import Objectives
from ..settings import TrainerSettings, without_auto
from .shapes_only import LiveMemory, ShapesOnlyQuantizer, make_fake

OPTIMIZER_STATE = {"adam": 2, "adamw": 2, "sgd": 1}  # tensors of the parameter's size


@dataclass
class UpdateCost:
    """Parameters by part; FLOPs (a multiply-add is two) and bytes of one update."""

    division: BatchDivision
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


def update_cost(config: Mapping[str, Any], *, processes: int = 1) -> UpdateCost:
    """config: a composed and resolved train config. FLOPs are of all `processes`, memory of one."""
    from ...losses.teachers.registry import NamedTeachers
    from ..init_from import freeze_parts
    from ..recompute import checkpoint_activations

    mode = FakeTensorMode()
    with mode, left_out():  # a cost does not depend on values
        tokenizer: Tokenizer = build(config["tokenizer"], key="tokenizer")
    freeze_parts(tokenizer, config.get("freeze") or ())
    parts = dict(tokenizer.named_children())
    settings, _ = without_auto(build_as(TrainerSettings, config["trainer"], key="trainer"))
    checkpoint_activations(tokenizer, settings.checkpoint_activations)
    division = divide_batch(
        batch_size=config["data"]["batch_size"],
        batch_per_device=config["data"].get("batch_per_device"),
        accumulate=settings.accumulate,
        processes=processes,
    )
    cost = UpdateCost(
        division=division,
        parameters={name: count(part) for name, part in parts.items()},
        trained={name: count(part, trained=True) for name, part in parts.items()},
        precision=settings.precision,
        tokens_per_image=tokenizer.num_tokens,
        bits_per_image=tokenizer.bits_per_image,
        codebook_size=tokenizer.codebook_size,
    )
    with left_out():  # not every frozen network can be built of fake tensors: real ones are replaced below
        adversary: Adversary | None = build(config["adversary"], key="adversary") if config.get("adversary") else None
        losses = WeightedLosses.from_config(config["loss"], tokenizer, NamedTeachers(config.get("teacher")))
    check_division(division, tokenizer=tokenizer, losses=losses, adversary=adversary)
    if adversary is not None:
        cost.parameters["discriminator"] = count(adversary.discriminator)
        cost.trained["discriminator"] = count(adversary.discriminator, trained=True)
    for name, term in losses.terms.items():
        for network in frozen_networks(term):
            what = name if term.teacher is None else f"teacher {term.teacher}"
            cost.parameters[f"{what} (frozen)"] = count(network)
        if count(term):
            cost.parameters[f"loss {name}"], cost.trained[f"loss {name}"] = count(term), count(term, trained=True)

    objectives = Objectives(tokenizer=tokenizer, losses=losses, adversary=adversary)
    batch = division.per_device
    for network in (losses, adversary) if adversary is not None else (losses,):
        make_fake(network, mode)
    with mode:
        images = torch.empty(batch, 3, *tokenizer.image_size)
        if settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        try:
            seen = images[:2] if tokenizer.space is None else tokenizer.space.encode(images[:2])
            tokenizer.train().quantizer(tokenizer.encoder(seen))
        except (DataDependentOutputException, DynamicOutputShapeException):
            tokenizer.quantizer = cast(Quantizer, ShapesOnlyQuantizer(tokenizer.quantizer))
            cost.notes.append("what the quantizer does in training only (running means, revival) is not counted")
        conditions = None
        if tokenizer.conditioner is not None:
            conditions = torch.empty(batch, tokenizer.conditioner.length, tokenizer.conditioner.dim)
            cost.notes.append("the frozen text tower, which encodes the captions, is not counted")
        cost.forward_flops = _forward_flops(objectives, images[:1], None if conditions is None else conditions[:1])
        dynamic = 0
        for phase, update in _phases(adversary, settings.max_updates).items():
            flops, peak = _measure_update(objectives, images, update, DTYPES[settings.precision], conditions)
            cost.update_flops[phase] = flops * division.accumulate * division.processes
            dynamic = max(dynamic, peak)
    trained = sum(cost.trained.values())
    states = OPTIMIZER_STATE.get(config["optimizer"].get("name", "adam"), 2)
    buffers = sum(b.nbytes for part in (tokenizer, adversary, losses) if part for b in part.buffers())
    cost.memory = {
        "parameters": 4 * sum(cost.parameters.values()) + buffers,
        "gradients": 4 * trained,
        "optimizer": 4 * states * trained,
        "EMA": 4 * sum(cost.parameters[name] for name in parts) if settings.ema is not None else 0,
        "activations": max(dynamic - 4 * trained, 0),
    }
    if settings.strategy == "fsdp2" and processes > 1:
        _share(cost, tokenizer, adversary, processes=processes, states=states)
    return cost


def _share(cost: UpdateCost, tokenizer: Tokenizer, adversary: Adversary | None, *, processes: int, states: int) -> None:
    """Blocks are divided among the processes; two of them, the computing one and the next, are whole at a time."""
    by_network = sharded_blocks(tokenizer, adversary)
    blocks = [block for own in by_network.values() for block in own]
    away = 4 * (1 - 1 / processes)
    whole = sum(sorted((4 * count(block) for block in blocks), reverse=True)[:2])
    trained = away * sum(count(block, trained=True) for block in blocks)
    cost.memory["parameters"] += int(whole - away * sum(map(count, blocks)))
    cost.memory["gradients"] -= int(trained)
    cost.memory["optimizer"] -= int(states * trained)
    if cost.memory["EMA"]:
        cost.memory["EMA"] -= int(away * sum(map(count, by_network[tokenizer])))
    cost.notes.append(f"fsdp2: {sum(map(count, blocks)) / 1e6:.1f} M parameters are shared by {processes} processes")


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


def _forward_flops(objectives: Objectives, image: Tensor, conditions: Tensor | None) -> dict[str, int]:
    """Of one forward of each part."""
    tokenizer, adversary = objectives.tokenizer, objectives.adversary
    found: dict[str, int] = {}

    def counted(part: str, forward: Callable[..., Any], *inputs: Any) -> Any:
        with FlopCounterMode(display=False) as flops:
            result = forward(*inputs)
        found[part] = flops.get_total_flops()
        return result

    with torch.no_grad():
        seen = image if tokenizer.space is None else counted("space (in)", tokenizer.space.encode, image)
        quantized = counted("quantizer", tokenizer.quantizer, counted("encoder", tokenizer.encoder, seen))
        made = counted("decoder", partial(tokenizer.decode, conditions=conditions), quantized.codes)
        for name, term in objectives.losses.terms.items():
            if isinstance(term, TeacherTerm):
                counted(f"teacher {term.teacher}", term.network, image)
                continue
            for network in frozen_networks(term):
                if term.needs_reconstruction:
                    counted(f"{name} (both images)", network, made, image)
                else:
                    counted(f"{name} (frozen)", network, image)
        if adversary is not None:
            counted("discriminator", adversary.discriminator.eval(), made)
            # Random augmentation looks at values, which fake tensors have not.
            adversary.discriminator.train(not hasattr(adversary.discriminator, "augment"))
            if adversary.consistency is not None:
                adversary.consistency.eval()
    return found


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
    with memory, FlopCounterMode(display=False) as flops:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            total, output, _ = objectives.generator(batch, conditions, update)
        total.backward()
        del total
        if objectives.trains_discriminator(update):
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                loss, _ = objectives.discriminator(batch, output)
            loss.backward()
    return flops.get_total_flops(), memory.peak
