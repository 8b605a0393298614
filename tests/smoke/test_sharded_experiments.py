"""The update of every experiment, sharded and with activation checkpointing, has the gradients that it has without.

One process holds every shard here: blocks are gathered before they compute and their gradients reduced after it, so a
block that is used in any other way than by its forward is found.
"""

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from imtok.common.blocks import blocks_of
from imtok.common.distributed import is_sharded, own_shard
from imtok.configs.compose import compose_config
from imtok.training.factory import build_training
from imtok.training.fsdp2 import shard
from imtok.training.randomness import seed_everything
from imtok.training.recompute import checkpoint_activations

EXPERIMENTS = runpy.run_path(str(Path(__file__).with_name("test_experiments.py")))
NAMES = [name for name in EXPERIMENTS["NAMES"] if name not in EXPERIMENTS["LIKE"]]
LATE = 10**8  # every term and the adversary count


@pytest.fixture(scope="module", autouse=True)
def _one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMTOK_CACHE", str(tmp_path_factory.mktemp("cache")))
        store = tmp_path_factory.mktemp("store") / "file"
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def gradients_of(training: Any, batch: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    seed_everything(5)
    training.train()
    objectives = training.objectives
    objectives.set_update(LATE)
    total, output, logs = objectives.generator(batch, training.tokenizer.conditions_of(batch), LATE)
    total.backward()
    if objectives.trains_discriminator(LATE):
        loss, more = objectives.discriminator(batch, output)
        loss.backward()
        logs = logs | more
    gradients = {n: own_shard(p.grad) for n, p in training.named_parameters() if p.grad is not None}
    return gradients, {name: float(value.detach()) for name, value in logs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_same(name, tmp_path):
    words = [f"experiment={name}", "debug=tiny", "data=generated", "trainer.threads=1"]
    config = compose_config("train", words)
    plain, data = build_training(config, tmp_path)
    sharded, _ = build_training(config, tmp_path)
    batch = data.prepare_batch(next(iter(data.val_loader(max_images=2))), torch.device("cpu"))
    for part in ("encoder", "decoder"):
        if any(blocks_of(getattr(sharded.tokenizer, part))) and not _changes(getattr(sharded.tokenizer, part)):
            checkpoint_activations(sharded.tokenizer, [part])
    expected, losses = gradients_of(plain, dict(batch))
    shard(sharded, device=torch.device("cpu"), smallest=1)
    assert any(is_sharded(p) for p in sharded.tokenizer.parameters())
    gradients, again = gradients_of(sharded, dict(batch))
    assert again == losses and gradients.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for key, value in expected.items():  # sums in another order where a block has several inputs
        torch.testing.assert_close(
            gradients[key], value, rtol=1e-5, atol=1e-6 * largest, msg=lambda m, k=key: f"{k}: {m}"
        )


def _changes(part: torch.nn.Module) -> bool:
    return any(isinstance(m, torch.nn.modules.batchnorm._NormBase) for m in part.modules())
