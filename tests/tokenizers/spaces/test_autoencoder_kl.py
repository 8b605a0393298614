"""Names and sizes of diffusers' AutoencoderKL, written out by hand: the same network read from its file."""

import pytest
import torch
from safetensors.torch import save_file

from imtok.tokenizers.spaces.autoencoder_kl import fitted, our_names, sizes_of
from imtok.tokenizers.spaces.vae import VAESpace

SIZES = {"channels": 4, "base_channels": 32, "channel_multipliers": [1, 2, 2], "blocks_per_level": 2}


def theirs(*, old: bool) -> dict[str, str]:
    """{name in diffusers: ours} of a network of SIZES; old: attention's names before diffusers 0.18."""
    names = {"quant_conv": "encoder.project", "post_quant_conv": "decoder.project"}
    attention = {"group_norm": "norm"}
    attention |= {"query": "q", "key": "k", "value": "v", "proj_attn": "project"} if old else {
        "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "project",
    }  # fmt: skip
    for side, way, blocks in (("encoder", "down", 2), ("decoder", "up", 3)):
        names |= {f"{side}.{n}": f"{side}.{n}" for n in ("conv_in", "conv_out")}
        names[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        inner = {n: n for n in ("norm1", "conv1", "norm2", "conv2")}
        for number in range(2):
            names |= {f"{side}.mid_block.resnets.{number}.{n}": f"{side}.middle.{2 * number}.{n}" for n in inner}
        names |= {f"{side}.mid_block.attentions.0.{a}": f"{side}.middle.1.{b}" for a, b in attention.items()}
        for level in range(3):
            for block in range(blocks):
                stem, own = f"{side}.{way}_blocks.{level}.resnets.{block}", f"{side}.levels.{level}.{block}"
                names |= {f"{stem}.{n}": f"{own}.{n}" for n in inner}
                if block == 0 and (side, level) in (("encoder", 1), ("decoder", 2)):
                    names[f"{stem}.conv_shortcut"] = f"{own}.skip"
            if level < 2:
                names[f"{side}.{way}_blocks.{level}.{way}samplers.0.conv"] = f"{side}.levels.{level}.{blocks}.conv"
    return {f"{a}.{kind}": f"{b}.{kind}" for a, b in names.items() for kind in ("weight", "bias")}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("prefix", ["", "vae."])
def test_a_file_of_diffusers_is_the_same_network(tmp_path, old: bool, prefix: str) -> None:
    space, names = VAESpace(**SIZES), theirs(old=old)
    for parameter in space.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours = space.state_dict()
    assert set(names.values()) == set(ours) and our_names([*names, "decoder.other.weight"]) == names
    flat = {}
    for name, own in names.items():
        linear = ".attentions." in name and "group_norm" not in name and name.endswith("weight")
        flat[f"{prefix}{name}"] = ours[own][:, :, 0, 0].contiguous() if linear else ours[own]
    assert sizes_of({name.removeprefix(prefix): tensor for name, tensor in flat.items()}) == SIZES
    save_file(flat, tmp_path / "diffusion_pytorch_model.safetensors")
    loaded = VAESpace(**SIZES, pretrained=str(tmp_path))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in loaded.state_dict().items())


def test_only_linear_weights_of_the_attention_become_convolutions() -> None:
    flat = torch.zeros(3, 5)
    for name in ("q", "k", "v", "project"):
        assert fitted(f"encoder.middle.1.{name}.weight", flat).shape == (3, 5, 1, 1)
    assert fitted("encoder.middle.0.q.weight", flat) is flat
    assert fitted("encoder.middle.1.q.weight", torch.zeros(3, 5, 1, 1)).shape == (3, 5, 1, 1)


def test_sampled_latents_have_the_posteriors_mean_and_deviation() -> None:
    """Of a posterior that is the same everywhere: mean 0.5, variance e^-2; variances are bounded at e^20 and e^-30."""
    space = VAESpace(**SIZES, sample=True, scale=2.0, shift=0.25)
    for log_variance, deviation in ((-2.0, 0.36788), (-90.0, 3.06e-7), (90.0, 22026.5)):
        torch.nn.init.zeros_(space.encoder.project.weight)
        space.encoder.project.bias.data = torch.tensor([0.5] * 4 + [log_variance] * 4)
        x = torch.stack([space.encode(torch.zeros(8, 3, 64, 64)) for _ in range(2)]).double()
        assert float((x[0] - x[1]).std()) / 2 == pytest.approx(deviation * 2**0.5, rel=0.05)
        if log_variance < 0:
            assert float(x.mean()) == pytest.approx((0.5 - 0.25) * 2, abs=0.03)
