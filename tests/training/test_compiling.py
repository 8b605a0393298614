"""torch.compile reaches encoder, decoder and discriminator of every experiment, and compiles them once.

With backends that run what they are given as it is and count: what a part's code becomes is torch's own matter.
"""

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imtok.configs.compose import compose_config
from imtok.decoders.base import Decoder
from imtok.training.compiling import compile_method, compile_parts
from imtok.training.factory import build_training
from imtok.training.module import TokenizerTraining

# Every experiment but those that only differ in sizes from another.
SMOKE = run_path(str(Path(__file__).parents[1] / "smoke" / "test_experiments.py"))
NAMES = [name for name in SMOKE["NAMES"] if name not in SMOKE["LIKE"]]
QUICK = {"flextok_d12_d12", "titok_s128/stage1"}
TINY = ["debug=tiny", "data=generated", "evaluate_after=false", "trainer.threads=1", "weights=random"]
UPDATES = 5


class Graphs:
    """As a backend: counts what is compiled, by the part that is running."""

    def __init__(self) -> None:
        self.running = ["none"]
        self.counts: Counter[str] = Counter()

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.counts[self.running[-1]] += 1
        return graph.forward

    def within(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **more: Any) -> Any:
            self.running.append(name)
            try:
                return call(*given, **more)
            finally:
                self.running.pop()

        return called

    def watch(self, training: TokenizerTraining) -> set[str]:
        """Names of the parts that an update runs."""
        tokenizer, adversary = training.tokenizer, training.adversary
        parts: dict[str, Any] = {"encoder": tokenizer.encoder, "decoder": tokenizer.decoder}
        if adversary is not None:
            parts["discriminator"] = adversary.discriminator
        for name, part in parts.items():
            part._compiled_call_impl = self.within(name, part._compiled_call_impl)
        if type(tokenizer.decoder).training_losses is not Decoder.training_losses:
            tokenizer.decoder.training_losses = self.within("decoder", tokenizer.decoder.training_losses)
        return set(parts)


def training_of(name: str) -> TokenizerTraining:
    torch.manual_seed(0)
    training, _ = build_training(compose_config("train", [f"experiment={name}", *TINY]), Path("."))
    return training.train()


def updates(training: TokenizerTraining, after: Callable[[], None] = lambda: None) -> list[Tensor]:
    """Totals and norms of gradients of some updates from the GAN's start on; no optimizer steps."""
    torch.manual_seed(1)
    objectives, tokenizer = training.objectives, training.tokenizer
    start = training.adversary.start if training.adversary is not None else 0
    found = []
    for update in range(start, start + UPDATES):
        batch = {
            "image": torch.rand(2, 3, *tokenizer.image_size) * 2 - 1,
            "label": torch.zeros(2, dtype=torch.int64),
            "caption": ["a red circle", "a blue square"],
            "key": [f"{update}a", f"{update}b"],
        }
        objectives.set_update(update)
        total, output, _ = objectives.generator(batch, tokenizer.conditions_of(batch), update)
        total.backward()
        found.append(total.detach())
        if objectives.trains_discriminator(update):
            loss, _ = objectives.discriminator(batch, output)
            loss.backward()
            found.append(loss.detach())
        for network in training.networks.values():
            gradients = [p.grad for module in network.modules for p in module.parameters() if p.grad is not None]
            found.append(torch.nn.utils.get_total_norm(gradients))
            for module in network.modules:
                module.zero_grad(set_to_none=True)
        after()
    return found


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_every_part_is_compiled_and_then_no_more(name: str) -> None:
    torch._dynamo.reset()
    plain, training, graphs = training_of(name), training_of(name), Graphs()
    compile_parts(training.tokenizer, training.adversary, backend=graphs)
    parts = graphs.watch(training)
    seen: list[Counter[str]] = []
    with torch._dynamo.config.patch(error_on_recompile=False):
        found = updates(training, lambda: seen.append(Counter(graphs.counts)))
    assert set(seen[-1]) == parts
    assert seen[-1] == seen[2], "compiled again in later updates"
    for mine, wanted in zip(found, updates(plain), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


def test_a_copy_of_a_compiled_decoder_calls_its_own() -> None:
    class Part(nn.Linear):
        def losses(self, x: Tensor) -> Tensor:
            return self(x).sum()

    torch._dynamo.reset()
    part = Part(2, 1)
    compile_method(part, "losses", backend="eager")
    other, x = copy.deepcopy(part), torch.ones(1, 2)
    with torch.no_grad():
        other.weight += 1
    assert float((other.losses(x) - part.losses(x)).detach()) == pytest.approx(2.0)
    assert list(other.state_dict()) == ["weight", "bias"] and type(part).__name__ == "Part"
