"""Recall@1 of captions by images, and of images by captions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def recall_at_1(images_ND: Tensor, texts_ND: Tensor, captions: Sequence[str]) -> tuple[float, float]:
    """(image to text, text to image). Images of equal captions count as each other's."""
    number = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    same = torch.tensor([number[caption] for caption in captions], device=images_ND.device)
    cosine = F.normalize(images_ND.float(), dim=1) @ F.normalize(texts_ND.float(), dim=1).T
    to_text, to_image = same[cosine.argmax(dim=1)] == same, same[cosine.argmax(dim=0)] == same
    return to_text.double().mean().item(), to_image.double().mean().item()
