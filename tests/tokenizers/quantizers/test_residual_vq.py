"""Residual VQ against a loop written out, and against vector-quantize-pytorch's."""

import pytest
import torch
from vector_quantize_pytorch import ResidualVQ as Library

from imtok.common.types import Stream, StreamShape
from imtok.tokenizers.quantizers.residual_vq import ResidualVQ

SHAPES = {"main": StreamShape(20)}


def make(**settings) -> ResidualVQ:
    torch.manual_seed(0)
    vq = ResidualVQ(dim=4, stages=3, codebook_size=32, **settings)
    for book in vq.books:
        with torch.no_grad():
            book.codebook.copy_(torch.randn(32, 4))
    return vq


@pytest.mark.parametrize("shared", [False, True])
def test_each_stage_codes_what_is_left(shared: bool) -> None:
    vq, z = make(shared=shared).eval(), torch.randn(2, 20, 4)
    out = vq({"main": Stream(z)})
    rest, total = z, torch.zeros_like(z)
    for stage in range(3):
        book = vq.books[0 if shared else stage].codebook
        index = torch.cdist(rest, book[None].expand(2, -1, -1)).argmin(-1)
        assert torch.equal(out.indices["main"][..., stage], index)
        rest, total = rest - book[index], total + book[index]
    torch.testing.assert_close(out.codes["main"].x_BND, total)


def test_same_indices_as_the_library() -> None:
    vq, z = make().eval(), torch.randn(2, 20, 4)
    theirs = Library(dim=4, num_quantizers=3, codebook_size=32).eval()
    for book, layer in zip(vq.books, theirs.layers, strict=True):
        layer._codebook.embed.data.copy_(book.codebook.detach()[None])
    codes, indices, _ = theirs(z)
    out = vq({"main": Stream(z)})
    assert torch.equal(out.indices["main"], indices)
    torch.testing.assert_close(out.codes["main"].x_BND, codes)


def test_losses_are_means_over_stages() -> None:
    vq, z = make(), torch.randn(2, 20, 4, requires_grad=True)
    out = vq({"main": Stream(z)})
    total, distances = torch.zeros_like(z), []
    for stage, index in enumerate(out.indices["main"].unbind(-1)):
        total = total + vq.books[stage].codebook[index]
        distances.append((z - total).square().mean())
    torch.testing.assert_close(out.losses["commit"], torch.stack(distances).mean())
    torch.testing.assert_close(out.losses["codebook"], torch.stack(distances).mean())
    out.losses["codebook"].backward(retain_graph=True)
    assert z.grad is None or float(z.grad.abs().sum()) == 0
    assert all(float(book.codebook.grad.abs().sum()) > 0 for book in vq.books)


def test_dropout_ends_some_samples_early() -> None:
    vq, z = make(quantizer_dropout=0.5), torch.randn(8, 20, 4)
    out = vq({"main": Stream(z)}, depths_B=torch.tensor([1, 2, 3, 3, 3, 3, 3, 3]))
    indices = out.indices["main"]
    assert bool((indices[0, :, 1:] == -1).all()) and bool((indices[1, :, 2] == -1).all())
    assert bool((indices[2:] >= 0).all())
    torch.testing.assert_close(out.codes["main"].x_BND[0], vq.books[0].codebook[indices[0, :, 0]])
    again = vq.indices_to_codes({"main": indices}, SHAPES)["main"]
    torch.testing.assert_close(again.x_BND, out.codes["main"].x_BND)
    assert again.mask_BN is None
    drawn = [vq({"main": Stream(z)}).indices["main"] for _ in range(20)]
    dropped = torch.stack([(i[..., 1:] == -1).any(dim=(1, 2)) for i in drawn])
    assert bool(dropped[:, :4].any()) and not bool(dropped[:, 4:].any())  # half of the batch draws
    assert not bool((vq.eval()({"main": Stream(z)}).indices["main"] == -1).any())


def test_dropped_samples_leave_the_books_to_learn_as_before() -> None:
    """What a stage sees does not depend on which samples have ended, with masked tokens or without."""
    z, mask = torch.randn(4, 20, 4), torch.rand(4, 20) > 0.4
    settings = {"update": "ema", "revive_below": 0.5, "usage_decay": 0.5, "shared": True}
    whole, ended = make(**settings), make(**settings)
    depths = torch.tensor([1, 2, 3, 3])
    for vq, given in ((whole, None), (ended, depths)):
        torch.manual_seed(1)
        out = vq({"main": Stream(z, None, mask)}, depths_B=given)
    torch.testing.assert_close(ended.state_dict(), whole.state_dict())
    stages = (out.indices["main"] >= 0).sum(dim=-1)
    assert torch.equal(stages, torch.where(mask, depths[:, None], 0))


def test_ema_codebooks_learn_without_a_codebook_loss() -> None:
    vq = make(update="ema", shared=True)
    before, z = vq.books[0].codebook.clone(), torch.randn(2, 20, 4, requires_grad=True)
    out = vq({"main": Stream(z)})
    assert set(out.losses) == {"commit"} == set(vq.loss_names)
    out.losses["commit"].backward()
    assert not torch.equal(vq.books[0].codebook, before)


def test_learning_once_is_one_running_mean_over_all_stages() -> None:
    """Stages choose from one codebook, and its counts and sums move once, by all of their residuals together."""
    vq, z = make(update="ema", shared=True, decay=0.9, learn_once=True), torch.randn(2, 20, 4)
    book = vq.books[0]
    before, counts, sums = (t.clone() for t in (book.codebook, book.counts, book.sums))
    rest, drawn, chosen = z.flatten(0, 1), torch.zeros(32), torch.zeros(32, 4)
    indices = vq({"main": Stream(z)}).indices["main"].flatten(0, 1)
    for stage in range(3):
        index = torch.cdist(rest, before).argmin(dim=-1)
        assert torch.equal(indices[:, stage], index)
        for token, code in enumerate(index.tolist()):
            drawn[code] += 1
            chosen[code] += rest[token]
        rest = rest - before[index]
    counts, sums = 0.9 * counts + 0.1 * drawn, 0.9 * sums + 0.1 * chosen
    torch.testing.assert_close(book.counts, counts)
    torch.testing.assert_close(book.sums, sums)
    smoothed = (counts + 1e-5) / (counts.sum() + 32e-5) * counts.sum()
    torch.testing.assert_close(book.codebook, sums / smoothed[:, None])

    at_every_stage = make(update="ema", shared=True, decay=0.9)
    at_every_stage({"main": Stream(z)})
    assert not torch.allclose(at_every_stage.books[0].codebook, book.codebook)


def test_codes_may_learn_from_what_all_stages_leave() -> None:
    vq, z = make(update="ema", shared=True, decay=0.9, learn_once=True, learn_from="rest"), torch.randn(2, 20, 4)
    book = vq.books[0]
    before, sums = book.codebook.clone(), book.sums.clone()
    indices = vq({"main": Stream(z)}).indices["main"].flatten(0, 1)
    rest, pulled = z.flatten(0, 1) - before[indices].sum(dim=1), torch.zeros(32, 4)
    for token, codes in enumerate(indices.tolist()):
        for code in codes:
            pulled[code] += rest[token]
    torch.testing.assert_close(book.sums, 0.9 * sums + 0.1 * pulled)


@pytest.mark.parametrize(
    "settings",
    [
        {"stages": 0},
        {"learn_from": "rest"},
        {"learn_once": True},
        {"quantizer_dropout": 1.5},
        {"least_stages": 9, "quantizer_dropout": 0.5},
    ],
)
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ResidualVQ(dim=4, **settings)
