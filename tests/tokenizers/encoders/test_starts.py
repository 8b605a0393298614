"""First weights of encoders whose tokens are learned, and what a settings' switch makes of them."""

import pytest
import torch

from imtok.layers.located_start import sincos_places, token_grid
from imtok.layers.patches import sincos_grid
from imtok.layers.prefix_places import prefix_places
from imtok.tokenizers.encoders.latent_vit import LatentViTEncoder
from imtok.tokenizers.encoders.registers import RegisterEncoder
from imtok.tokenizers.encoders.rotary_latents import RotaryLatentEncoder
from imtok.tokenizers.encoders.tower import TowerEncoder
from imtok.tokenizers.encoders.vit_queries import QueryViTEncoder
from imtok.tokenizers.towers.vit import ViTTower

LATENT = {"num_tokens": 8, "image_size": 32, "patch_size": 8, "width": 256, "depth": 1, "num_heads": 4}
REGISTER = {"num_tokens": 8, "input_size": [16, 32], "patch_size": 8, "width": 256, "depth": 1, "head_dim": 64}


def size(tensor: torch.Tensor) -> float:
    return float(tensor.detach().std())


@pytest.mark.parametrize("class_token", [True, False])
def test_a_located_latent_vit_starts_at_places_alone(class_token: bool) -> None:
    encoder = LatentViTEncoder(**LATENT, located_start=True, class_token=class_token)
    torch.testing.assert_close(encoder.positions.detach()[-16:], sincos_places((4, 4), 256))
    torch.testing.assert_close(encoder.query_positions.detach(), sincos_places(token_grid(8), 256))
    assert not encoder.queries.any() and len(encoder.positions) == 16 + class_token


def test_a_latent_vit_starts_as_its_settings_say() -> None:
    plain, small = LatentViTEncoder(**LATENT), LatentViTEncoder(**LATENT, position_std=0.1, init_std=0.005)
    assert plain.queries.any() and size(small.queries) == pytest.approx(0.1, rel=0.06)
    assert size(small.query_positions) == pytest.approx(0.1, rel=0.06)
    assert size(plain.project.weight) == pytest.approx(0.02, rel=0.06)
    assert size(small.project.weight) == pytest.approx(0.005, rel=0.06)


def test_registers_start_as_their_settings_say() -> None:
    plain = RegisterEncoder(**REGISTER)
    assert size(plain.registers) == pytest.approx(0.02, rel=0.06) and not plain.to_latents.weight.any()
    assert torch.equal(plain.positions_ND, sincos_grid((2, 4), 256))
    assert plain.mask is not None and RegisterEncoder(**REGISTER, causal=False).mask is None
    located = RegisterEncoder(**REGISTER, located_start=True, register_std=0.0, zero_head=False)
    torch.testing.assert_close(located.registers.detach(), prefix_places(8, 256))
    assert torch.equal(located.positions_ND, sincos_places((2, 4), 256)) and located.to_latents.weight.any()


def test_learned_latents_and_queries_start_small() -> None:
    sizes = {"input_size": (32, 32), "patch_size": 8, "depth": 2, "num_heads": 4, "halve_after": [0]}
    rotary = RotaryLatentEncoder(num_tokens=64, width=96, axes=[8, 8, 8], **sizes)
    assert size(rotary.latents) == pytest.approx(0.02, rel=0.06) and rotary.dim == 96 and rotary.span == 128
    queries = QueryViTEncoder(dim=8, branches=2, latent_side=4, image_size=32, width=768, depth=1, num_heads=4)
    assert size(queries.queries) == pytest.approx(1e-6, rel=0.06) and queries.queries.shape == (32, 768)
    assert size(queries.sets) == pytest.approx((1 / 768 / 3) ** 0.5, rel=0.1) and queries.sets.shape == (3, 768)


def test_a_tower_without_projection_has_its_own_width() -> None:
    tower = ViTTower(image_size=16, patch_size=8, width=24, depth=1, num_heads=2)
    assert TowerEncoder(tower=tower).dim == TowerEncoder(tower=tower, dim=24).dim == 24
    linear, tanh = (TowerEncoder(tower=tower, dim=6, project=kind) for kind in ("linear", "tanh"))
    assert linear.project.weight.shape == (6, 24) and [m.out_features for m in tanh.project[::2]] == [24, 6]
    with pytest.raises(ValueError, match="dim=23"):
        TowerEncoder(tower=tower, dim=23)
