"""The whole evaluation of images in memory, taking turns with the forwards that it cannot do without."""

import contextlib
import io
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..common.arguments import whole_number
from ..common.errors import UserError
from .timing import interleaved, print_result, ratio


def benchmark_evaluate(settings: Mapping[str, str], overrides: Sequence[str]) -> dict[str, Any]:
    from imtok.common.build import build
    from imtok.common.pixels import to_model_range, to_uint8
    from imtok.configs.compose import compose_config
    from imtok.eval.evaluate import evaluate
    from imtok.eval.metrics.chosen import ChosenMetrics
    from imtok.eval.metrics.features import FeatureMetric

    rounds, count = whole_number(settings, "rounds", 3), whole_number(settings, "images", 16)
    batch_size = min(whole_number(settings, "batch", 8), count)
    for key in ("precision", "compare", "size"):
        if key in settings:
            raise UserError(f"{key}={settings[key]}: benchmark evaluate measures in fp32, at data.image_size")
    config = compose_config("train", [*overrides, "weights=random"])
    tokenizer = build(config["tokenizer"], key="tokenizer").eval()
    protocol = build(config["protocol"], key="protocol")
    height, width = tokenizer.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    keys = [f"{number:05d}" for number in range(count)]
    batches: list[dict[str, Any]] = [
        {"image": pixels[i : i + batch_size], "key": keys[i : i + batch_size], "skipped": []}
        for i in range(0, count, batch_size)
    ]
    metrics = ChosenMetrics(protocol, device=torch.device("cpu"))
    metrics.start((height, width), tokenizer.index_layout())
    with_networks = {m.needs: m for m in metrics.present.values() if m.needs is not None}

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            images = to_model_range(batch["image"])
            pictures = tokenizer.decode(tokenizer.quantize(images).codes).clamp(-1, 1)
            for metric in with_networks.values():
                network = metric.network.module
                if not isinstance(metric, FeatureMetric):
                    network(pictures, images)
                    continue
                for shown in (images, pictures):
                    network(shown if network.wants_floats else to_uint8(shown))

    with tempfile.TemporaryDirectory() as folder:

        def whole() -> None:
            facts = {"name": "noise", "evaluated": "val"}
            with contextlib.redirect_stdout(io.StringIO()):
                evaluate(tokenizer, batches, protocol=protocol, out_dir=Path(folder), data_facts=facts, progress=False)

        seconds = interleaved({"whole evaluate": whole, "bare forwards": bare}, rounds=rounds, clock=time.perf_counter)
    ratios = {"whole / bare": ratio(seconds["whole evaluate"], seconds["bare forwards"])}
    print_result(f"evaluate: {config['name']}, {count} images of {height}x{width}, {rounds} rounds", seconds, ratios)
    return {"seconds": seconds, "ratios": ratios}
