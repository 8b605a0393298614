"""H(code) over groups of images: what the published code of one GPU saw, on any number of GPUs."""

from collections.abc import Callable

import torch
from torch import Tensor

from ....common.distributed import process_count

Entropies = Callable[[Tensor, bool], tuple[Tensor, Tensor]]  # of [N, D], joined over processes or not


def check_entropy_images(entropy_images: int | None) -> None:
    if entropy_images is not None and entropy_images < 1:
        raise ValueError(f"entropy_images={entropy_images}: images of one mean code, 1 or more; null: all of the batch")


def grouped_entropies(entropies: Entropies, z_BND: Tensor, images: int | None) -> tuple[Tensor, Tensor]:
    """(H(code | token), H(code)); the mean code is that of `images` images, and H(code) the mean over such groups.

    None, or a batch of all processes that is no larger: one mean over all images of all processes.
    """
    if images is None or len(z_BND) * process_count() <= images:
        return entropies(z_BND.flatten(0, 1), True)
    if len(z_BND) % images:
        raise ValueError(
            f"tokenizer.quantizer.entropy_images={images}: a device has {len(z_BND)} images at once; give a multiple "
            "of it by data.batch_size or data.batch_per_device, or another entropy_images (null: all images)"
        )
    found = [entropies(group_GND.flatten(0, 1), False) for group_GND in z_BND.split(images)]
    per_token, of_mean = (torch.stack(values).mean() for values in zip(*found, strict=True))
    return per_token, of_mean
