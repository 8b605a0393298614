"""Reader of FlexTok, against its reference implementation's outputs, and with a VAE in front."""

import pytest
import torch

from imtok.common.errors import UserError
from imtok.tokenizers import released
from imtok.tokenizers.spaces.autoencoder_kl import our_names
from imtok.tokenizers.spaces.vae import VAESpace

from .compared import check_fixture, read

INPUTS = ("latents", "noise", "timesteps", "keep_k")


def test_every_output_of_the_reference(parity_folder) -> None:
    check_fixture(parity_folder / "flextok", "flextok", inputs=INPUTS)


def test_the_released_files_hold_a_vae_too(parity_folder, diffusers_state) -> None:
    constructor, state, io = read(parity_folder / "flextok")
    vae = diffusers_state(channels=io["latents"].shape[1], base_channels=8, channel_multipliers=(1, 2))
    state |= {f"vae.vae.{name}": tensor for name, tensor in vae.items()}
    tokenizer, report = released.find("flextok").import_state(state, image_size=16, constructor=constructor)
    assert set(report.used) == set(state)
    assert isinstance(tokenizer.space, VAESpace)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    tokens = tokenizer.tokenize(images)
    tokenizer.decoder.steps = 2
    assert torch.equal(tokenizer.detokenize(tokens), tokenizer.reconstruct(images))
    assert tokenizer.tokenize(images, num_tokens=3).shape == (2, 3, 1)
    assert torch.equal(tokenizer.detokenize(tokens[:, :3]), tokenizer.reconstruct(images, num_tokens=3))


def test_other_tables_are_refused(parity_folder) -> None:
    constructor, state, _ = read(parity_folder / "flextok")
    name = "encoder.module_dict.enc_posemb_module.posembs"
    with pytest.raises(UserError, match="not the sines and cosines"):
        released.find("flextok").import_state(state | {name: state[name] + 0.1}, image_size=8, constructor=constructor)


@pytest.fixture
def diffusers_state():
    """A VAE's weights under diffusers' names: ours, renamed back."""

    def make(**sizes) -> dict[str, torch.Tensor]:
        space = VAESpace(blocks_per_level=1, **sizes)
        own = {k: v.flatten(1) if ".middle.1." in k and v.ndim == 4 else v for k, v in space.state_dict().items()}
        levels = len(sizes["channel_multipliers"])
        candidates = [f"{a}.{b}" for a in diffusers_modules(levels) for b in ("weight", "bias")]
        names = our_names(candidates)
        back = {theirs: own[ours] for theirs, ours in names.items() if ours in own}
        assert len(back) == len(own)
        return back

    return make


def diffusers_modules(levels: int) -> list[str]:
    block = ("norm1", "conv1", "norm2", "conv2", "conv_shortcut")
    found = ["quant_conv", "post_quant_conv"]
    for side, stack, resampler, blocks in (("encoder", "down", "downsamplers", 1), ("decoder", "up", "upsamplers", 2)):
        found += [f"{side}.{name}" for name in ("conv_in", "conv_norm_out", "conv_out")]
        found += [f"{side}.mid_block.resnets.{i}.{name}" for i in range(2) for name in block[:4]]
        found += [f"{side}.mid_block.attentions.0.{n}" for n in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")]
        for level in range(levels):
            stem = f"{side}.{stack}_blocks.{level}"
            found += [f"{stem}.resnets.{i}.{name}" for i in range(blocks) for name in block]
            if level < levels - 1:
                found.append(f"{stem}.{resampler}.0.conv")
    return found
