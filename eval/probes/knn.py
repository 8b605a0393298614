"""k-nearest-neighbour classifier by cosine similarity of codes (Wu et al., arXiv 1805.01978)."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS, TEMPERATURE = 20, 0.07
PROTOCOL = f"{NEIGHBOURS} neighbours by cosine, weights exp(cosine / {TEMPERATURE})"


def knn_predict(
    features_ND: Tensor,
    fitted_MD: Tensor,
    labels_M: Tensor,
    *,
    classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    rows: int = 1024,
) -> Tensor:
    """Classes [N]; of equally strong ones the lowest number. rows: queries looked at together."""
    fitted, found = F.normalize(fitted_MD.float(), dim=1), []
    for query in F.normalize(features_ND.float(), dim=1).split(rows):
        cosine, index = (query @ fitted.T).topk(min(neighbours, len(fitted)), dim=1)
        votes = torch.zeros(len(query), classes, device=query.device)
        votes.scatter_add_(1, labels_M.to(query.device)[index], (cosine / temperature).exp())
        found.append(votes.argmax(dim=1))
    return torch.cat(found)
