"""Measure speed here: whole update against bare modules, evaluation, JPEG loading, quantizers against the library."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..configs.errors import UserError, did_you_mean
from .arguments import split_overrides, whole_number

HELP = """\
usage: imtok benchmark train experiment=NAME [rounds=5] [batch=2] [precision=auto] [threads=1] [compare=auto] [key=...]
       imtok benchmark evaluate [experiment=NAME] [rounds=3] [images=16] [threads=1] [key=...]
       imtok benchmark loader [data.root=DIR] [images=400] [size=256] [rounds=3] [threads=1]
       imtok benchmark quantizers [CASE ...] [--tokens N] [--device cuda] [--dtype bf16] [--compile] ...

{doc}
All arms of a benchmark take turns in one process, so that a busy machine slows them alike; medians are printed.
  train     the whole update as it runs in training (losses, GAN, optimizer, EMA, logging) against forward and backward
            of the bare encoder, quantizer, decoder, LPIPS and discriminator; compare=true adds the bare update in
            fp32 against bf16 with channels_last (auto: where bf16 has matrix units)
  evaluate  `imtok evaluate` on images in memory against the sum of the forwards that it needs
  loader    training crops of a JPEG folder (made here when none is given), images a core-second
  quantizers  a step of imtok's quantizers against vector-quantize-pytorch's, and the memory that each takes;
            `imtok benchmark quantizers --help` says more

examples:
  imtok benchmark train experiment=llamagen_vq16
  imtok benchmark loader data.root=photos
  imtok benchmark quantizers lfq18 vq16k"""

KINDS = ("train", "evaluate", "loader", "quantizers")


def interleaved(
    arms: Mapping[str, Callable[[], object]], *, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds an arm, a value a round; each arm runs once before, unmeasured."""
    for arm in arms.values():
        arm()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            start = clock()
            arm()
            seconds[name].append(clock() - start)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Of rounds that ran side by side: median, smallest, largest."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def print_result(title: str, seconds: Mapping[str, Sequence[float]], ratios: Mapping[str, Mapping[str, float]]) -> None:
    print(title)
    for name, values in seconds.items():
        print(f"  {name:<34} {statistics.median(values):9.4f} s  ({min(values):.4f} to {max(values):.4f})")
    for name, r in ratios.items():
        print(f"  {name:<34} {r['median']:9.3f}    ({r['min']:.3f} to {r['max']:.3f})")


def benchmark_loader(settings: Mapping[str, str], overrides: Sequence[str]) -> dict[str, Any]:
    from imtok.data.datamodule import ImageData
    from imtok.data.folder import FolderImages
    from imtok.data.transforms import AdmRandomCrop

    images, size = whole_number(settings, "images", 400), whole_number(settings, "size", 256)
    rounds = whole_number(settings, "rounds", 3)
    root = next((word.partition("=")[2] for word in overrides if word.startswith("data.root=")), None)
    other = [word for word in overrides if not word.startswith("data.root=")]
    if other:
        raise UserError(f"{other[0]}: `imtok benchmark loader` takes data.root, images, size, rounds and threads")
    with tempfile.TemporaryDirectory() as made:
        if root is None:
            write_jpegs(Path(made), min(images, 100))
        batch = 16
        data = ImageData(
            source=FolderImages(root=root or made, val_fraction=0.01),
            image_size=size,
            batch_size=batch,
            num_workers=0,
            train_crop=AdmRandomCrop(size=size),
        )
        batches = max(images // batch, 1)

        def load() -> None:
            for _ in data.train_loader(start_sample=0, num_batches=batches):
                pass

        # CPU seconds: what other programs do on the machine does not count.
        seconds = interleaved({"load": load}, rounds=rounds, clock=time.process_time)["load"]
    speeds = [batches * batch / s for s in seconds]
    print(f"loader: {batches * batch} JPEGs of {'a made folder' if root is None else root} to {size} px, no workers")
    print(f"  images a core-second {statistics.median(speeds):9.1f}    ({min(speeds):.1f} to {max(speeds):.1f})")
    return {"images_per_core_second": statistics.median(speeds)}


def write_jpegs(folder: Path, count: int) -> None:
    """500x375, quality 92, about 100 KB: the usual ImageNet file."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        layers = np.zeros((375, 500, 3))
        for side in (4, 16, 64, 250):  # a spectrum that falls as natural images' does
            small = Image.fromarray(random.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8))
            layers += np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), dtype=float) / side**0.5
        layers -= layers.min()
        Image.fromarray((layers * (255 / layers.max())).astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=92)


def main(argv: Sequence[str]) -> int:
    if argv and argv[0] == "quantizers":  # flags of its own
        from .benchmark_quantizers import run

        return run(argv[1:])
    if not argv or "-h" in argv or "--help" in argv:
        print(HELP.format(doc=__doc__))
        return 0
    kind, *words = argv
    if kind not in KINDS:
        raise UserError(f"benchmark {kind}: no such benchmark; {did_you_mean(kind, KINDS)}")
    own = ("rounds", "batch", "precision", "threads", "compare", "images", "size")
    settings, overrides = split_overrides(words, command=f"benchmark {kind}", own=own)

    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(whole_number(settings, "threads", 1))
    try:
        if kind == "loader":
            benchmark_loader(settings, overrides)
        elif kind == "train":
            from .benchmark_train import benchmark_train

            benchmark_train(settings, overrides)
        else:
            from .benchmark_evaluate import benchmark_evaluate

            benchmark_evaluate(settings, overrides)
    finally:
        torch.set_num_threads(before)
    return 0
