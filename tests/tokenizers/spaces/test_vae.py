"""The VAE space: against diffusers where it is installed, and what it does without a file."""

import pytest
import torch

from imtok.common.errors import UserError
from imtok.tokenizers.spaces.autoencoder_kl import sizes_of
from imtok.tokenizers.spaces.vae import VAESpace

SIZES = {"channels": 4, "base_channels": 32, "channel_multipliers": [1, 2], "blocks_per_level": 1}


def test_there_and_back_has_the_sizes_it_says() -> None:
    space = VAESpace(**SIZES)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    x = space.encode(images)
    assert x.shape == (2, 4, *space.size((16, 24)))
    assert space.decode(x).shape == images.shape
    assert torch.equal(space.encode(images), x), "the mean, not a draw"
    with pytest.raises(ValueError, match="multiples of 2"):
        space.size((15, 16))


def test_scale_and_shift_cancel() -> None:
    torch.manual_seed(0)
    plain = VAESpace(**SIZES)
    scaled = VAESpace(**SIZES, scale=0.5, shift=0.1)
    scaled.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    x = plain.encode(images)
    torch.testing.assert_close(scaled.encode(images), (x - 0.1) * 0.5)
    torch.testing.assert_close(scaled.decode(scaled.encode(images)), plain.decode(x))


def test_it_stays_in_eval_mode() -> None:
    assert not VAESpace(**SIZES).train().training


def test_draws_in_training_alone_where_that_is_said() -> None:
    space, images = VAESpace(**SIZES, sample="training"), torch.rand(1, 3, 16, 16)
    assert torch.equal(space.encode(images), space.encode(images))
    assert not torch.equal(space.train().encode(images), space.encode(images)) and not space.training
    plain = VAESpace(**SIZES)
    plain.load_state_dict(space.state_dict())
    assert torch.equal(space.eval().encode(images), plain.train().encode(images))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"^pretrained=/nowhere: no such file; use pretrained=PATH"):
        VAESpace(**SIZES, pretrained="/nowhere")


def test_as_diffusers(tmp_path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="pip install imtok[vae] has it")
    from safetensors.torch import save_file

    reference = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
    ).eval()
    save_file(reference.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    assert sizes_of(reference.state_dict()) == SIZES
    space = VAESpace(**SIZES, scale=0.25, pretrained=str(tmp_path))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        latent = reference.encode(images).latent_dist.mode()
        torch.testing.assert_close(space.encode(images), latent * 0.25, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(space.decode(latent * 0.25), reference.decode(latent).sample, atol=1e-5, rtol=1e-4)
