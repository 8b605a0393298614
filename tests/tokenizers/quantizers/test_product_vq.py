"""Product, multi-codebook and parallel quantizers against their parts alone."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from imtok.common.errors import UserError
from imtok.common.types import Stream, StreamShape
from imtok.tokenizers.quantizers.multi_codebook import MultiCodebook
from imtok.tokenizers.quantizers.parallel import ParallelQuantizer
from imtok.tokenizers.quantizers.product_vq import ProductQuantizer

VQ = {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 16}
RESIDUAL = {"_target_": "imtok.tokenizers.quantizers.residual_vq.ResidualVQ", "codebook_size": 8, "stages": 3}


def test_product_is_its_parts_side_by_side() -> None:
    product, z = ProductQuantizer(dim=12, parts=3, part=VQ), torch.randn(2, 10, 12)
    out = product({"main": Stream(z)})
    alone = [part({"main": Stream(x)}) for part, x in zip(product.parts, z.chunk(3, dim=-1), strict=True)]
    assert torch.equal(out.indices["main"], torch.cat([a.indices["main"] for a in alone], dim=-1))
    assert torch.equal(out.codes["main"].x_BND, torch.cat([a.codes["main"].x_BND for a in alone], dim=-1))
    torch.testing.assert_close(out.losses["commit"], torch.stack([a.losses["commit"] for a in alone]).mean())
    assert product.index_layout({"main": StreamShape(10)})[0].vocabulary == (16, 16, 16)


def test_product_of_tokens_gives_a_wider_grid() -> None:
    product, z = ProductQuantizer(dim=4, parts=2, split="tokens", part=VQ), torch.randn(2, 18, 4)
    out = product({"main": Stream(z)})
    assert out.codes["main"].x_BND.shape == (2, 9, 8)
    assert out.codes["main"].grid == (3, 3)
    assert product.out_dim == 8
    assert product.index_layout({"main": StreamShape(18)})[0].length == 9
    with pytest.raises(ValueError, match="parts=2: 9 tokens"):
        product.index_layout({"main": StreamShape(9)})


def test_product_of_residuals_joins_their_indices() -> None:
    product = ProductQuantizer(dim=8, part=RESIDUAL).eval()
    out = product({"main": Stream(torch.randn(2, 10, 8))})
    assert out.indices["main"].shape == (2, 10, 6)
    shapes = {"main": StreamShape(10)}
    again = product.indices_to_codes(out.indices, shapes)["main"].x_BND
    torch.testing.assert_close(again, out.codes["main"].x_BND)


@pytest.mark.parametrize("settings", [{"parts": 5}, {"parts": 0}])
def test_impossible_products(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ProductQuantizer(dim=12, part=VQ, **settings)
    with pytest.raises(UserError, match=r"tokenizer\.quantizer\.part\.codebok_size"):
        ProductQuantizer(dim=12, part=VQ | {"codebok_size": 3})


def test_multi_codebook_searches_each_chunk_by_cosine() -> None:
    vq, z = MultiCodebook(dim=12, codebooks=3, codebook_size=16), torch.randn(2, 10, 12)
    out = vq.eval()({"main": Stream(z)})
    for k, (book, chunk) in enumerate(zip(vq.books, z.chunk(3, dim=-1), strict=True)):
        similarity = F.normalize(chunk, dim=-1) @ F.normalize(book.codebook, dim=-1).T
        assert torch.equal(out.indices["main"][..., k], similarity.argmax(-1))
    with pytest.raises(ValueError, match="codebooks=5"):
        MultiCodebook(dim=12, codebooks=5)


@pytest.mark.parametrize("system", ["unitok", "meditok"])
def test_unitok(parity_folder, system: str) -> None:
    folder = parity_folder / system
    io, state = load_file(folder / "io.safetensors"), load_file(folder / "weights.safetensors")
    books = {k: v for k, v in state.items() if k.startswith("quantizer.codebooks.") and k.endswith("codebook.weight")}
    size, width = next(iter(books.values())).shape
    vq = MultiCodebook(dim=len(books) * width, codebooks=len(books), codebook_size=size)
    vq.load_state_dict({f"books.{k.split('.')[2]}.codebook": v for k, v in books.items()})
    z = io["z"] if io["z"].shape[-1] == vq.dim else io["z"].flatten(2).transpose(1, 2)
    out = vq.eval()({"main": Stream(z)})
    expected = io["indices"]
    expected = expected if expected.shape == out.indices["main"].shape else expected.flatten(2).transpose(1, 2)
    assert torch.equal(out.indices["main"], expected)


def test_parallel_gives_each_stream_its_own_quantizer() -> None:
    nodes = {"semantic": VQ | {"codebook_size": 8}, "pixel": RESIDUAL}
    parallel = ParallelQuantizer(dim={"semantic": 4, "pixel": 6}, quantizers=nodes, reduce="sum")
    given = {"semantic": Stream(torch.randn(2, 4, 4), (2, 2)), "pixel": Stream(torch.randn(2, 9, 6), (3, 3))}
    shapes = {"semantic": StreamShape(4, (2, 2)), "pixel": StreamShape(9, (3, 3))}
    out = parallel(given)
    assert out.indices["semantic"].shape == (2, 4, 1) and out.indices["pixel"].shape == (2, 9, 3)
    assert [s.stream for s in parallel.index_layout(shapes)] == ["semantic", "pixel"]
    assert parallel.bits(shapes) == 4 * 3 + 9 * 3 * 3
    assert parallel.out_dim == {"semantic": 4, "pixel": 6}
    alone = [parallel.quantizers[name]({"main": given[name]}).losses["commit"] for name in nodes]
    torch.testing.assert_close(out.losses["commit"], sum(alone))
    out = parallel.eval()(given)
    again = parallel.indices_to_codes(out.indices, shapes)
    for name in nodes:
        torch.testing.assert_close(again[name].x_BND, out.codes[name].x_BND)
        assert again[name].grid == shapes[name].grid


def test_parallel_with_a_continuous_stream() -> None:
    nodes = {"semantic": VQ, "pixel": {"_target_": "imtok.tokenizers.quantizers.kl.KL"}}
    parallel = ParallelQuantizer(dim={"semantic": 4, "pixel": 6}, quantizers=nodes)
    out = parallel({"semantic": Stream(torch.randn(2, 4, 4)), "pixel": Stream(torch.randn(2, 9, 6))})
    assert set(out.indices) == {"semantic"} and set(out.codes) == {"semantic", "pixel"}
    assert set(parallel.loss_names) == {"codebook", "commit", "kl"} == set(out.losses)


def test_parallel_names_streams_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"quantizers\.semantc: no such stream; did you mean 'semantic'"):
        ParallelQuantizer(dim={"semantic": 4}, quantizers={"semantc": VQ})
    with pytest.raises(ValueError, match=r"quantizers\.pixel: nothing quantizes"):
        ParallelQuantizer(dim={"semantic": 4, "pixel": 4}, quantizers={"semantic": VQ})
