"""The ViT with appended latent tokens: against PyTorch's own encoder layer, and what its settings change."""

import pytest
import torch
from torch import nn

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.layers.joint_transformer import JointTransformer
from imtok.tokenizers.encoders.latent_vit import LatentViTEncoder

SIZES = {"dim": 6, "num_tokens": 8, "image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "num_heads": 4}


def make(**settings) -> LatentViTEncoder:
    torch.manual_seed(0)
    return LatentViTEncoder(**(SIZES | settings)).eval()


def test_a_block_is_pytorchs_pre_norm_encoder_layer() -> None:
    torch.manual_seed(0)
    ours = JointTransformer(width=32, depth=1, num_heads=4).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    layer = nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, activation="gelu", norm_first=True, batch_first=True
    ).eval()
    block = ours.blocks[0]
    layer.self_attn.in_proj_weight.data, layer.self_attn.in_proj_bias.data = block.attn.qkv.weight, block.attn.qkv.bias
    for mine, theirs in (
        (block.attn.proj, layer.self_attn.out_proj),
        (block.mlp.fc1, layer.linear1),
        (block.mlp.fc2, layer.linear2),
        (block.norm1, layer.norm1),
        (block.norm2, layer.norm2),
    ):
        theirs.load_state_dict(mine.state_dict())
    x = torch.randn(2, 5, 32)
    visible = torch.tensor([[True] * 5, [True, True, True, False, False]])
    with torch.no_grad():
        torch.testing.assert_close(ours(x), layer(ours.norm_in(x)), atol=1e-5, rtol=1e-4)
        masked = layer(ours.norm_in(x), src_key_padding_mask=~visible)
        torch.testing.assert_close(ours(x, visible)[1, :3], masked[1, :3], atol=1e-5, rtol=1e-4)
        other = torch.where(visible[..., None], x, torch.randn_like(x))
        assert torch.equal(ours(other, visible)[visible], ours(x, visible)[visible]), "hidden places move no bit"


def test_latents_and_shapes() -> None:
    for settings in ({}, {"class_token": False}, {"legacy_reshape": True}):
        encoder = make(**settings)
        stream = encoder(torch.rand(3, 3, 32, 32))["main"]
        assert stream.x_BND.shape == (3, 8, 6) and stream.grid is None
        assert encoder.stream_shapes((32, 32))["main"].num_tokens == 8


def test_the_legacy_reshape_reads_memory_as_width_by_tokens() -> None:
    plain, legacy = make(), make(legacy_reshape=True)
    taken = {}
    for encoder, name in ((plain, "plain"), (legacy, "legacy")):
        encoder.project.register_forward_pre_hook(lambda _, args, name=name: taken.update({name: args[0]}))
        encoder(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    # Slot l, channel c comes from token (c L + l) // W, channel (c L + l) mod W (methods sheet, 0.4).
    for slot, channel in ((0, 0), (3, 5), (7, 31)):
        flat = channel * 8 + slot
        assert torch.equal(taken["legacy"][:, slot, channel], taken["plain"][:, flat // 32, flat % 32])


def test_another_size_is_one_clear_line() -> None:
    node = {
        "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
        "image_size": 32,
        "encoder": {"_target_": "imtok.tokenizers.encoders.latent_vit.LatentViTEncoder", **SIZES},
        "quantizer": {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 16},
        "decoder": {
            "_target_": "imtok.decoders.mask_token_vit.MaskTokenViTDecoder",
            **{k: v for k, v in SIZES.items() if k != "dim"},
        },
    }
    tokenizer = build(node, key="tokenizer")
    with pytest.raises(UserError, match=r"data.image_size=\[64, 64\]: .* positions are those of inputs of \[32, 32\]"):
        tokenizer.tokenize(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UserError, match="num_heads=5"):
        build(node | {"encoder": node["encoder"] | {"num_heads": 5}}, key="tokenizer")
    with pytest.raises(UserError, match="patch_size=7"):
        build(node | {"encoder": node["encoder"] | {"patch_size": 7}}, key="tokenizer")
