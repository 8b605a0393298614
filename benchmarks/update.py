"""The whole update as Lightning runs it, taking turns with forward and backward of the bare modules."""

import copy
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from ..common.arguments import whole_number
from ..common.errors import UserError
from ..common.frozen import frozen_networks
from ..common.precision import DTYPES, device_type, has_matrix_units, tf32
from ..common.types import TokenizerOutput
from .timing import print_result, ratio

Arm = Callable[[Mapping[str, Any]], None]  # an update of a batch


class BareModules:
    """Forward and backward of the parts, with the fewest calls an update can be made of; no optimizer, no logs."""

    def __init__(
        self, training: Any, *, precision: str, channels_last: bool, device: torch.device, own: bool = False
    ) -> None:
        parts = (training.tokenizer, training.adversary.discriminator if training.adversary is not None else None)
        self.tokenizer, self.discriminator = copy.deepcopy(parts) if own else parts
        terms = list(training.losses.terms.values())
        self.networks = [n for t in terms if t.needs_reconstruction for n in frozen_networks(t)]
        self.teachers = [t for t in terms if not t.needs_reconstruction and t.taps]  # read what is tapped, not images
        self.taps = training.tokenizer.taps  # a copy's hooks, too, fill those of the original
        self.conditions: Tensor | None = None
        self.dtype, self.device = DTYPES[precision], device
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.trained = [part for part in (self.tokenizer, self.discriminator) if part is not None]
        for part in self.trained if own else ():
            part.to(memory_format=self.format)

    def update(self, batch: Mapping[str, Any]) -> None:
        images = batch["image"]
        conditioner = self.tokenizer.conditioner
        if conditioner is not None and self.conditions is None:
            self.conditions = conditioner([""] * len(images))
        self._generator(images.contiguous(memory_format=self.format), batch)
        for part in self.trained:
            part.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _cast(self) -> Any:
        return torch.autocast(self.device.type, dtype=self.dtype) if self.dtype else nullcontext()

    def _generator(self, images: Tensor, batch: Mapping[str, Any]) -> None:
        parts = self.tokenizer
        with self._cast():
            seen = images if parts.space is None else parts.space.encode(images)
            latents = parts.encoder(seen)
            quantized = parts.quantizer(latents)
            given = {} if self.conditions is None else {"conditions": self.conditions}
            codes = quantized.codes if parts.token_dropout is None else parts.token_dropout(quantized.codes)
            made = parts.decoder.training_losses(codes, seen, **given)
            loss = sum(quantized.losses.values()) + sum(made.values())
            picture = None
            if parts.decoder.cheap_sample:
                picture = parts.decode(codes, conditions=self.conditions).float()
                loss = loss + (picture - images).abs().mean()
            for network in self.networks:
                loss = loss + network(picture, images).mean()
            output = TokenizerOutput(latents, quantized, picture, made, {}, self.taps.collect())
            for teacher in self.teachers:
                loss = loss + teacher(batch, output)
            if self.discriminator is not None:
                self.discriminator.requires_grad_(False)
                loss = loss - self.discriminator(picture).float().mean()
                self.discriminator.requires_grad_(True)
        loss.backward()
        if self.discriminator is None:
            return
        assert picture is not None, "an adversary judges decoded images"
        torch.clear_autocast_cache()
        with self._cast():
            real, fake = self.discriminator(images).float(), self.discriminator(picture.detach()).float()
            loss = (1 - real).relu().mean() + (1 + fake).relu().mean()
        loss.backward()


class TakeTurns(Callback):
    """After each whole update the other arms run; the whole one's clock stands still meanwhile.

    The first round is not counted: memory is touched and kernels are chosen in it.
    """

    def __init__(self, make_arms: Callable[[torch.device], Mapping[str, Arm]], *, rounds: int) -> None:
        self.make_arms, self.rounds = make_arms, rounds
        self.seconds: dict[str, list[float]] = {"whole update": []}

    def on_fit_start(self, trainer: Any, training: Any) -> None:
        self.arms = self.make_arms(training.device)
        self.seconds |= {name: [] for name in self.arms}

    def on_train_start(self, trainer: Any, training: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, training: Any, outputs: Any, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        if training.device.type == "cuda":
            torch.cuda.synchronize(training.device)
        times = {"whole update": time.perf_counter() - self.started}
        for name, arm in self.arms.items():
            start = time.perf_counter()
            arm(batch)
            times[name] = time.perf_counter() - start
        for name, seconds in times.items() if batch_idx > 0 else ():
            self.seconds[name].append(seconds)
        # A round of a large model takes minutes; whoever waits should see that it moves.
        said = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items())
        print(f"round {batch_idx} of {self.rounds}: {said if batch_idx else 'warm-up, not counted'}", file=sys.stderr)
        self.started = time.perf_counter()


def composed(settings: Mapping[str, str], overrides: Sequence[str], *, updates: int, batch: int) -> dict[str, Any]:
    """The experiment as it trains; batch: images of an update."""
    from imtok.configs.compose import compose_config

    if not any(word.startswith("experiment=") for word in overrides):
        raise UserError("benchmark train: which experiment? Add experiment=quickstart (`imtok recipes` lists them)")
    words = [*overrides, f"trainer.max_updates={updates}", f"data.batch_size={batch}", "data.batch_per_device=null"]
    words += ["trainer.accumulate=1", f"trainer.threads={whole_number(settings, 'threads', 1)}", "weights=random"]
    words.append(f"trainer.precision={settings.get('precision', 'auto')}")
    if not any(word.startswith("data=") for word in overrides):
        words.append("data=generated")  # no data set is needed to measure
        if not any(word.startswith("data.count=") for word in overrides):
            words.append(f"data.count={updates * batch}")
    config = compose_config("train", words)
    if config["adversary"]:  # the GAN counts from the first update
        config["adversary"] |= {"start": 0, "discriminator_warmup": 0, "ramp": 0}
    return config


def benchmark_train(settings: Mapping[str, str], overrides: Sequence[str]) -> dict[str, Any]:
    from imtok.training.factory import build_trainer, build_training

    rounds, batch = whole_number(settings, "rounds", 5), whole_number(settings, "batch", 2)
    compare = settings.get("compare", "auto")
    if compare not in ("auto", "true", "false"):
        raise UserError(f"compare={compare}: expected auto, true or false")
    config = composed(settings, overrides, updates=rounds + 1, batch=batch)
    fast_bf16 = has_matrix_units("bf16", device_type(config["trainer"]["accelerator"]))
    if compare == "auto" and not fast_bf16:
        print("bf16 arm left out: no bf16 matrix units here (compare=true measures it anyway)", file=sys.stderr)
    compared = compare == "true" or (compare == "auto" and fast_bf16)

    with tempfile.TemporaryDirectory() as folder:
        training, data = build_training(config, Path(folder))

        def arms(device: torch.device) -> dict[str, Arm]:
            own = training.settings
            kinds: dict[str, dict[str, Any]] = {
                "bare modules": {"precision": own.precision, "channels_last": own.channels_last is True}
            }
            if compared:
                kinds["bare, fp32"] = {"precision": "fp32", "channels_last": False, "own": True}
                kinds["bare, bf16 + channels_last"] = {"precision": "bf16", "channels_last": True, "own": True}
            return {name: BareModules(training, device=device, **kind).update for name, kind in kinds.items()}

        turns = TakeTurns(arms, rounds=rounds)
        trainer = build_trainer(training.settings, loggers=[], callbacks=[turns], folder=Path(folder))
        with tf32(training.settings.tf32, trainer.strategy.root_device):
            trainer.fit(training, datamodule=data)
    seconds = turns.seconds
    ratios = {"whole / bare": ratio(seconds["whole update"], seconds["bare modules"])}
    if compared:
        ratios["fp32 / bf16 + channels_last"] = ratio(seconds["bare, fp32"], seconds["bare, bf16 + channels_last"])
    size = "x".join(str(side) for side in training.tokenizer.image_size)
    gan = ", with GAN" if config["adversary"] else ", no GAN"
    title = f"train: {config['name']}, batch {batch} of {size}, {training.settings.precision}{gan}, {rounds} rounds"
    print_result(title, seconds, ratios)
    return {"seconds": seconds, "ratios": ratios}
