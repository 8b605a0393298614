"""H(code) over groups of images: the mean of what each group would give alone."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.base import Quantizer
from imtok.tokenizers.quantizers.bsq import BSQ
from imtok.tokenizers.quantizers.grouped_lfq import GroupedLFQ
from imtok.tokenizers.quantizers.ibq import IBQ
from imtok.tokenizers.quantizers.lfq import LFQ
from imtok.tokenizers.quantizers.vq import VQ

KINDS = {
    "lfq": (LFQ, {"bits": 6, "temperature": 0.5}),
    "lfq, table": (LFQ, {"bits": 6, "temperature": 0.5, "entropy_form": "table", "log_rule": "offset"}),
    "grouped_lfq": (GroupedLFQ, {"bits": 6, "groups": 2, "temperature": 0.5}),
    "bsq": (BSQ, {"bits": 6, "temperature": 0.5}),
    "ibq": (IBQ, {"codebook_size": 16, "entropy_temperature": 0.5}),
    "vq": (VQ, {"codebook_size": 16, "entropy_temperature": 0.5}),
}


def made(kind: str, images: int | None) -> Quantizer:
    torch.manual_seed(0)
    cls, settings = KINDS[kind]
    return cls(dim=6, entropy_images=images, **settings).train()


def entropy(quantizer: Quantizer, x_BND: torch.Tensor) -> torch.Tensor:
    return quantizer({"main": Stream(x_BND, (2, 2))}).losses["entropy"]


@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_those_of_several_gpus(kind):
    x = torch.randn(6, 4, 6, generator=torch.Generator().manual_seed(1))
    whole, alone = x.clone().requires_grad_(), x.clone().requires_grad_()
    entropy(made(kind, 2), whole).backward()
    gpus = torch.stack([entropy(made(kind, None), images) for images in alone.split(2)]).mean()
    gpus.backward()
    assert torch.allclose(entropy(made(kind, 2), x), gpus, rtol=1e-5)
    assert torch.allclose(whole.grad, alone.grad, rtol=1e-4, atol=1e-6)
    over_all = entropy(made(kind, None), x)
    assert not torch.allclose(over_all, gpus, rtol=1e-3), "few images have few codes, and so less entropy of the mean"
    for images in (6, 8):  # a batch that is no larger is one group
        assert torch.equal(entropy(made(kind, images), x), over_all)


def test_a_batch_that_does_not_hold_whole_groups():
    with pytest.raises(ValueError, match=r"^tokenizer.quantizer.entropy_images=4: a device has 6 images at once"):
        entropy(made("lfq", 4), torch.randn(6, 4, 6))
    with pytest.raises(ValueError, match=r"^entropy_images=0: "):
        made("vq", 0)


def test_masked_tokens_have_no_image():
    stream = Stream(torch.randn(4, 4, 6), None, torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"^tokenizer.quantizer.entropy_images=2: this encoder masks tokens"):
        made("lfq", 2)({"main": stream})
    assert made("lfq", None)({"main": stream}).losses["entropy"].isfinite()
