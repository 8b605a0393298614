"""Reader of KL-16. No fixture has its weights, so VQGAN's fixture lends its network: the names are the same."""

import pytest
import torch

from imtok.tokenizers import released

from .compared import imported, read


@pytest.fixture
def kl_state(parity_folder) -> dict[str, torch.Tensor]:
    """VQGAN's weights with moments in place of a codebook, and no attention in the decoder's levels, as in KL-16."""
    _, state, _ = read(parity_folder / "vqgan")
    kept = {k: v for k, v in state.items() if not k.startswith(("quant", "decoder.up.4.attn")) or "post" in k}
    width, dim = state["quant_conv.weight"].shape[1], state["post_quant_conv.weight"].shape[1]
    return kept | {"quant_conv.weight": torch.randn(2 * dim, width, 1, 1), "quant_conv.bias": torch.randn(2 * dim)}


def test_moments_are_those_of_vqgans_encoder(parity_folder, kl_state) -> None:
    _, _, io = read(parity_folder / "vqgan")
    tokenizer, report = released.find("tokenbridge_vae").import_state(kl_state, image_size=64)
    assert set(report.used) == set(kl_state)
    features = imported(parity_folder / "vqgan", "vqgan").encoder.features(io["image"])
    moments = torch.nn.functional.conv2d(features, kl_state["quant_conv.weight"], kl_state["quant_conv.bias"])
    mean = moments.chunk(2, dim=1)[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokenizer.quantize(io["image"]).codes["main"].x_BND, mean, atol=1e-4, rtol=1e-4)
    names = [type(m).__name__ for m in tokenizer.decoder.modules()]
    assert names.count("SpatialAttention") == 1  # in the middle only
    assert tokenizer.reconstruct(io["image"]).shape == io["image"].shape


def test_published_quantizer_has_64_values_a_channel(parity_folder, kl_state) -> None:
    _, _, io = read(parity_folder / "vqgan")
    tokenizer, report = released.find("tokenbridge").import_state(kl_state, image_size=64)
    assert set(report.used) == set(kl_state)
    dim = kl_state["post_quant_conv.weight"].shape[1]
    indices = tokenizer.tokenize(io["image"])
    assert indices.shape[-1] == dim
    assert tokenizer.codebook_size == (64,) * dim
    codes = tokenizer.quantize(io["image"]).codes["main"].x_BND * 0.2325
    continuous, _ = released.find("tokenbridge_vae").import_state(kl_state, image_size=64)
    mean = continuous.quantize(io["image"]).codes["main"].x_BND * 0.2325
    inside = mean.abs() < 3
    assert float((codes - mean).abs()[inside].max()) < 0.5  # the widest step inside +-3 of +-5
    assert inside.float().mean() > 0.5
