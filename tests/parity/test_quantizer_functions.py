"""The published golden vectors, and vector-quantize-pytorch run afresh at other sizes and seeds."""

from pathlib import Path

import pytest
import torch
import vector_quantize_pytorch as library_of
from torch import Tensor

from imtok.parity.binary import FUNCTIONS
from imtok.parity.rows import compare
from imtok.scripts.parity import read_folder

INPUTS = ("z", "levels")


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_stored_vectors(name: str, parity_folder: Path) -> None:
    config, io, _ = read_folder(parity_folder / "functions" / name)
    ours = FUNCTIONS[name](config, io, {})
    given = {n for n in io if n.startswith(INPUTS)} | ({"indices"} if name == "fsq" else set())
    rows = [compare(output, ours[output], io[output]) for output in set(io) - given]
    assert rows and all(row.ok for row in rows), [row for row in rows if not row.ok]


def library_vectors(z: Tensor, *, bits: int, groups: int) -> dict[str, Tensor]:
    library = library_of.LFQ(
        dim=bits * groups,
        codebook_size=2**bits,
        num_codebooks=groups,
        entropy_loss_weight=0.1,
        commitment_loss_weight=0.25,
    ).train()
    leaf = z.clone().requires_grad_()
    (quantized, indices, aux), terms = library(leaf, return_loss_breakdown=True)
    return {
        "z": z,
        "quantized": quantized.detach(),
        "indices": indices.long(),
        "aux_loss": aux.detach(),
        "per_sample_entropy": terms.per_sample_entropy.detach(),
        "codebook_entropy": terms.batch_entropy.detach(),
        "commitment": terms.commitment.detach(),
        "grad_z": torch.autograd.grad(aux, leaf)[0],
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("bits", "groups"), [(5, 1), (8, 1), (10, 1), (4, 3)])
def test_other_sizes_and_seeds(seed: int, bits: int, groups: int) -> None:
    z = torch.randn(2, bits * groups, 3 + seed, 5, generator=torch.Generator().manual_seed(seed)) * 0.5
    io = library_vectors(z, bits=bits, groups=groups)
    facts = {"dim": bits * groups, "codebook_size": 2**bits, "num_codebooks": groups, "commitment_loss_weight": 0.25}
    ours = FUNCTIONS["lfq_entropy_lucidrains"]({"constructor": facts, "inv_temperature": 100.0}, io, {})
    rows = [compare(output, ours[output], io[output]) for output in io if output != "z"]
    assert len(rows) == 7
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
