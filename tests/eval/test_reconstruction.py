"""Reconstruction in eval mode and exact float32, of all rows or some, with their captions."""

import pytest
import torch
from fake_tokenizer import FakeTokenizer, batches_of, pictures

from imtok.common.pixels import to_model_range, to_pixels
from imtok.eval.reconstruction import Reconstruction, evaluating, exact_float32

CPU = torch.device("cpu")


@pytest.mark.parametrize("rounding", ["round", "floor"])
@pytest.mark.parametrize("floats", [False, True])
def test_bytes_and_floats_of_all_rows_and_of_some(rounding: str, floats: bool) -> None:
    tokenizer = FakeTokenizer(detail=1.3)  # beyond the range here and there
    [batch] = batches_of(pictures(4))
    image = batch["image"]
    if floats:
        image = batch["image"] = torch.rand(4, 3, 32, 32) * 2 - 1
    reconstruct = Reconstruction(tokenizer, device=CPU, rounding=rounding)
    with torch.no_grad():
        whole, some = reconstruct(batch), reconstruct(batch, [3, 1])
    given = image if floats else to_model_range(image)
    expected = tokenizer.decode(tokenizer.quantize(given).codes).detach()
    assert float(expected.abs().max()) > 1 and float(whole.unrounded.abs().max()) == 1
    torch.testing.assert_close(whole.unrounded, expected.clamp(-1, 1))
    assert torch.equal(whole.pixels, to_pixels(expected.clamp(-1, 1), rounding))
    assert torch.equal(whole.reference, to_pixels(image, rounding) if floats else image)
    for name in ("reference", "pixels", "unrounded"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[[3, 1]])
    assert reconstruct.shapes(whole).image_size == (32, 32)
    assert [s.length for s in reconstruct.shapes(whole).layout] == [16]


def test_shapes_name_height_before_width() -> None:
    reconstruct = Reconstruction(FakeTokenizer(), device=CPU, rounding="round")
    with torch.no_grad():
        shown = reconstruct({"image": torch.zeros(2, 3, 32, 16, dtype=torch.uint8)})
    shapes = reconstruct.shapes(shown)
    assert shapes.image_size == (32, 16) and [s.length for s in shapes.layout] == [8]
    assert shapes.tokens == shown.quantized.codes["main"].x_BND.shape[1]
    continuous = Reconstruction(FakeTokenizer(continuous=True), device=CPU, rounding="round")
    with torch.no_grad():
        assert continuous.shapes(continuous({"image": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)})).layout == ()


def test_captions_go_with_their_rows() -> None:
    class Captioned(FakeTokenizer):
        conditioner = "reads captions"

        def conditions_of(self, batch):
            return batch["caption"]

        def decode(self, codes, *, conditions):
            seen.append(conditions)
            return super().decode(codes)

    seen: list = []
    [batch] = batches_of(pictures(4))
    batch["caption"] = ["a", "b", "c", "d"]
    reconstruct = Reconstruction(Captioned(), device=CPU, rounding="round")
    with torch.no_grad():
        for rows in (slice(None), slice(1, 3), [3, 0]):
            reconstruct(batch, rows)
        reconstruct({k: v for k, v in batch.items() if k != "caption"}, [1])
    assert seen == [["a", "b", "c", "d"], ["b", "c"], ["d", "a"], None]


@pytest.mark.parametrize("training", [True, False])
def test_mode_precision_and_autocast_are_put_back(training: bool) -> None:
    tokenizer = FakeTokenizer().train(training)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            with evaluating(tokenizer, CPU):
                assert not tokenizer.training and torch.get_float32_matmul_precision() == "highest"
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert tokenizer.training is training and torch.get_float32_matmul_precision() == "medium"
        with pytest.raises(KeyError), exact_float32(CPU):
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_tf32_of_convolutions_is_off_meanwhile(monkeypatch) -> None:
    """The switch can be read without a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with exact_float32(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    with exact_float32(CPU):
        assert torch.backends.cudnn.allow_tf32
