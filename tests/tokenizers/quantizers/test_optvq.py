"""Sinkhorn assignment against the whole transport plan in float64, and against SFTok's indices."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from imtok.common.types import Stream
from imtok.tokenizers.quantizers import optvq
from imtok.tokenizers.quantizers.optvq import OptVQ, balanced_codes


def full_plan(z, codebook, sharpness, rounds):
    q = torch.exp(-sharpness * torch.cdist(z.double(), codebook.double()))
    for _ in range(rounds):
        q = q / q.sum(dim=0, keepdim=True)
        q = q / q.sum(dim=1, keepdim=True)
    return q


@pytest.mark.parametrize("rounds", [1, 5])
def test_indices_equal_the_whole_plan(rounds: int, monkeypatch) -> None:
    monkeypatch.setattr(optvq, "chunks", lambda z, codes: list(z.split(17)))
    z, codebook = F.normalize(torch.randn(100, 6), dim=-1), F.normalize(torch.randn(40, 6), dim=-1)
    expected = full_plan(z, codebook, 10.0, rounds).argmax(dim=1)
    assert torch.equal(balanced_codes(z, codebook, sharpness=10.0, rounds=rounds), expected)


def test_no_code_starves() -> None:
    vq = OptVQ(dim=4, codebook_size=32, sharpness=50.0, rounds=20)
    z = torch.randn(1, 512, 4) * 0.05 + torch.tensor([1.0, 0, 0, 0])  # vectors all on one side
    assert vq({"main": Stream(z)}).indices["main"].unique().numel() > 28
    assert vq.eval()({"main": Stream(z)}).indices["main"].unique().numel() < 16


def test_distant_codes_do_not_underflow() -> None:
    z, codebook = torch.randn(50, 4), torch.randn(20, 4) * 0.1 + 100
    indices = balanced_codes(z, codebook, sharpness=10.0, rounds=5)
    assert indices.unique().numel() > 4


def test_eval_is_the_nearest_code_unless_asked() -> None:
    vq, z = OptVQ(dim=4, codebook_size=32).eval(), torch.randn(1, 100, 4)
    alone = vq({"main": Stream(z[:, :1])}).indices["main"]
    assert torch.equal(alone, vq({"main": Stream(z)}).indices["main"][:, :1])


def test_sftok(parity_folder) -> None:
    folder = parity_folder / "sftok"
    io, state = load_file(folder / "io.safetensors"), load_file(folder / "weights.safetensors")
    vq = OptVQ(dim=12, codebook_size=128, sinkhorn_in_eval=True)
    own = {"codebook": state["quantize.embedding"][0]}
    own |= {f"shared.{k}": state[f"quantize.shared_linear.{k}"] for k in ("weight", "bias")}
    vq.load_state_dict(own)
    tokens = {"main": Stream(io["z"].flatten(2).transpose(1, 2))}
    out = vq.eval()(tokens)
    assert torch.equal(out.indices["main"][..., 0], io["indices"][:, 0])
    torch.testing.assert_close(out.codes["main"].x_BND.transpose(1, 2), io["quantized"].flatten(2))
    losses = vq.train()(tokens).losses
    torch.testing.assert_close(losses["codebook"].detach(), io["codebook_loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(0.25 * losses["commit"].detach(), io["commitment_loss"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("settings", [{"sharpness": 0.0}, {"rounds": 0}])
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        OptVQ(dim=4, **settings)
