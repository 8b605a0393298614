"""Zero-shot classification: image vector against the text tower's mean over prompts (CLIP, arXiv 2103.00020)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Texts = Callable[[Sequence[str]], Tensor]


def class_vectors(texts: Texts, prompts: Sequence[Sequence[str]], *, rows: int = 256) -> Tensor:
    """[C, D], unit length: of each class the mean of its prompts' unit vectors."""
    every = [text for of_class in prompts for text in of_class]
    vectors = torch.cat([F.normalize(texts(every[i : i + rows]).float(), dim=1) for i in range(0, len(every), rows)])
    means = [part.mean(dim=0) for part in vectors.split([len(of_class) for of_class in prompts])]
    return F.normalize(torch.stack(means), dim=1)


def zero_shot_predict(images_ND: Tensor, classes_CD: Tensor) -> Tensor:
    return (F.normalize(images_ND.float(), dim=1) @ classes_CD.T).argmax(dim=1)
