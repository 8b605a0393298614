"""OptVQ (Zhang et al., arXiv 2412.15195; SFTok): codes are assigned by optimal transport over the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.distributed import sum_over_processes
from .shared.codebook import CodebookQuantizer
from .shared.codebook_start import CodebookStart, codebook_start
from .shared.limits import check_positive
from .shared.nearest import nearest_code
from .shared.softmax_codes import chunks


class OptVQ(CodebookQuantizer):
    """Nearest code under Sinkhorn's balance: no code takes more than its share of a batch.

    The codebook is seen through one shared linear map that starts as the identity.

    sharpness: 1 / epsilon of the transport, exp(-sharpness * |z - e|).
    rounds: of row and column normalisation.
    init: where the codes start, see codebook_start.py.
    sinkhorn_in_eval: SFTok's published behaviour; an image's indices then depend on the batch around it. Off: nearest.
    """

    joined_batch_equal = True

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        unit_length: bool = True,
        sharpness: float = 10.0,
        rounds: int = 5,
        sinkhorn_in_eval: bool = False,
        init: CodebookStart = "normal",
        rotation_trick: bool = False,
        entropy_temperature: float | None = None,
    ) -> None:
        super().__init__(
            dim=dim,
            codebook_size=codebook_size,
            code_dim=code_dim,
            unit_length=unit_length,
            rotation_trick=rotation_trick,
            entropy_temperature=entropy_temperature,
        )
        check_positive(sharpness=sharpness)
        if rounds < 1:
            raise ValueError(f"rounds={rounds}: at least 1")
        self.sharpness, self.rounds, self.sinkhorn_in_eval = sharpness, rounds, sinkhorn_in_eval
        self.codebook = nn.Parameter(codebook_start(init, codebook_size=codebook_size, width=self.code_dim))
        self.shared = nn.Linear(self.code_dim, self.code_dim)
        with torch.no_grad():
            self.shared.weight.copy_(torch.eye(self.code_dim))
            self.shared.bias.zero_()

    def effective_codebook(self) -> Tensor:
        codebook = self.shared(self.codebook.float())
        return F.normalize(codebook, dim=-1) if self.unit_length else codebook

    def micro_batch_misfit(self) -> str | None:
        return ": its codes are assigned in balance over the whole batch of an update; another quantizer (vq)"

    def assign(self, z_ND: Tensor, codebook_KD: Tensor) -> Tensor:
        if not (self.training or self.sinkhorn_in_eval):
            return nearest_code(z_ND, codebook_KD)
        return balanced_codes(z_ND, codebook_KD, sharpness=self.sharpness, rounds=self.rounds)


@torch.no_grad()
def balanced_codes(z_ND: Tensor, codebook_KD: Tensor, *, sharpness: float, rounds: int) -> Tensor:
    """Argmax over codes of Sinkhorn's transport plan between all processes' vectors and the codes, [N].

    The plan is diag(u) Q diag(v) with Q = exp(-sharpness d), so two vectors describe it, and a round makes Q again,
    chunk by chunk, as logarithms (the published exp of the whole table underflows for distant codes). A round:
    columns (codes) to equal mass, then rows (tokens). u does not matter to a row's argmax.
    """

    def log_q(z_RD: Tensor) -> Tensor:
        squares = torch.addmm(z_RD.square().sum(dim=1, keepdim=True), z_RD, codebook_KD.T, alpha=-2) + norms_K
        return squares.clamp_(min=0).sqrt_().mul_(-sharpness)

    norms_K = codebook_KD.square().sum(dim=1)
    log_v_K: Tensor | None = None
    for _ in range(rounds):
        mass_K = torch.zeros_like(norms_K)
        for z_RD in chunks(z_ND, len(codebook_KD)):
            plan = log_q(z_RD)
            if log_v_K is not None:
                plan -= (plan + log_v_K).logsumexp(dim=1, keepdim=True)
            mass_K += plan.exp_().sum(dim=0)
        log_v_K = -sum_over_processes(mass_K).clamp(min=1e-38).log()
    assert log_v_K is not None, "no rounds"
    return torch.cat([(log_q(z_RD) + log_v_K).max(dim=1).indices for z_RD in chunks(z_ND, len(codebook_KD))])
