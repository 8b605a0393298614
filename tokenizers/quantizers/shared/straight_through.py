"""How a gradient crosses the choice of a code."""

import torch.nn.functional as F
from torch import Tensor


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """In value the codes; z receives the gradient unchanged. Codes receive none: their loss moves them."""
    return z + (codes - z).detach()


def rotate_to(z: Tensor, codes: Tensor) -> Tensor:
    """In value the codes; the gradient is turned and scaled as z is turned and scaled into its code.

    Rotation trick (Fifty et al., arXiv 2410.06424, eq. 4): codes = lambda R z, R = I - 2 w w^T + 2 c z^T for unit c, z
    and w their normed sum, lambda and R taken as constants.
    """
    z_length = z.detach().norm(dim=-1, keepdim=True).clamp(min=1e-6)
    code_length = codes.detach().norm(dim=-1, keepdim=True)
    z_unit = z.detach() / z_length
    code_unit = codes.detach() / code_length.clamp(min=1e-6)
    bisector = F.normalize(z_unit + code_unit, dim=-1, eps=1e-6)  # opposite vectors: zero, and R only flips the part
    turned = (
        z - 2 * (z * bisector).sum(-1, keepdim=True) * bisector + 2 * (z * z_unit).sum(-1, keepdim=True) * code_unit
    )
    turned = turned * (code_length / z_length)
    return turned + (codes - turned).detach()  # rounding must not make another code of it
