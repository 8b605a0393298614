"""Training crops of a JPEG folder: images per core-second."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from .timing import interleaved


def benchmark_loader(root: str | None = None, *, images: int = 400, size: int = 256, rounds: int = 3) -> dict[str, Any]:
    """root: a folder of images; None: JPEGs made here."""
    from imtok.data.datamodule import ImageData
    from imtok.data.folder import FolderImages
    from imtok.data.transforms import AdmRandomCrop

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
    print(f"  images per core-second {statistics.median(speeds):9.1f}    ({min(speeds):.1f} to {max(speeds):.1f})")
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
