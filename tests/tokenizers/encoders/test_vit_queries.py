"""The ViT with latent queries: held against timm's own ViT where they do the same."""

import pytest
import timm
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.types import Stream
from imtok.common.weights import fill, left_out
from imtok.decoders.vit_queries import QueryViTDecoder
from imtok.tokenizers.encoders.vit_queries import QueryViTEncoder
from imtok.tokenizers.hub import from_pretrained, save_pretrained

VIT = {"patch_size": 8, "width": 32, "depth": 2, "num_heads": 2, "drop_path": 0.0}


def make(**settings) -> QueryViTEncoder:
    return QueryViTEncoder(**({"dim": 12, "branches": 2, "latent_side": 3, "image_size": 32} | VIT | settings))


def reference() -> torch.nn.Module:
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 0}
    return timm.create_model("vit_small_patch14_dinov2", **sizes).eval()


def test_published_sizes_are_dinov2_base_with_queries() -> None:
    with torch.device("meta"):
        encoder, decoder = QueryViTEncoder(dim=64, branches=2, latent_side=11), QueryViTDecoder(dim=64)
        vit = timm.create_model("vit_base_patch14_dinov2", img_size=256, patch_size=16, num_classes=0)
    trunk = sum(p.numel() for p in vit.parameters())
    queries, sets, project = 2 * 121 * 768, 3 * 768, 769 * 32
    assert sum(p.numel() for p in encoder.parameters()) == trunk + queries + sets + project
    patches = sum(p.numel() for p in vit.patch_embed.parameters())
    others = 768 + 2 * 768 + 65 * 768 + 769 * 768  # mask token, sets, projection, pixels
    assert sum(p.numel() for p in decoder.parameters()) == trunk - patches + others


def test_the_image_part_is_timms_vit() -> None:
    ours, theirs = make(layer_scale=1e-5).eval(), reference()
    parts = {"": ours.vit, "patch_embed.proj.": ours.patches}
    for prefix, part in parts.items():
        fill(part, theirs.state_dict(), source="test", prefixes=(prefix,))
    images = torch.randn(2, 3, 32, 32)
    x = ours.patches(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(
        ours.vit(ours.vit.placed(x, (4, 4), with_class=True)), theirs.forward_features(images), atol=1e-5, rtol=1e-4
    )
    with pytest.raises(UserError, match=r"test holds another architecture; .*other shape: cls_token"):
        fill(make(width=64).vit, theirs.state_dict(), source="test")


def test_positions_of_another_grid_are_timms() -> None:
    vit = make().vit
    theirs = timm.layers.resample_abs_pos_embed(vit.pos_embed, new_size=[3, 3], old_size=[4, 4])
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(vit.placed(x, (3, 3), with_class=False), x + theirs[:, 1:])
    torch.testing.assert_close(
        vit.placed(x, (3, 3), with_class=True)[:, 0], (vit.cls_token + theirs[:, :1])[0].expand(2, -1)
    )


def test_branches_lie_side_by_side() -> None:
    encoder, images = make().eval(), torch.randn(2, 3, 32, 32)
    before = encoder(images)["main"].x_BND
    assert before.shape == (2, 9, 12)
    encoder.project.weight.data[0] *= 2  # one row: the first channel of either branch, the projection being shared
    changed = (encoder(images)["main"].x_BND - before).abs().amax(dim=(0, 1)) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == [0, 6]


def test_shapes_and_the_one_image_size() -> None:
    encoder, decoder = make(), QueryViTDecoder(dim=12, image_size=32, **VIT)
    images = torch.randn(2, 3, 32, 32)
    assert decoder(encoder(images)).shape == images.shape
    assert encoder.stream_shapes((32, 32))["main"].grid == (3, 3)
    with pytest.raises(ValueError, match=r"\[32, 32\]"):
        encoder.stream_shapes((64, 64))
    with pytest.raises(ValueError, match="branches=5"):
        make(branches=5)
    with pytest.raises(ValueError, match="patch_size=7"):
        make(patch_size=7)


def test_patches_are_painted_where_they_belong() -> None:
    decoder = QueryViTDecoder(dim=12, image_size=(16, 24), **VIT)
    painted = torch.randn(2, 6, 8, 8, 3)  # 2 x 3 patches of 8 x 8 pixels
    decoder.to_pixels.register_forward_hook(lambda module, given, out: painted.flatten(2))
    picture = decoder({"main": Stream(torch.randn(2, 4, 12), (2, 2))})
    torch.testing.assert_close(picture[:, :, 8:16, 16:24], painted[:, 5].permute(0, 3, 1, 2))


def test_an_export_names_no_weights_to_fetch(tmp_path, tokenizer_node, monkeypatch) -> None:
    calls, fetched = [], reference()
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: calls.append(a) or fetched)
    monkeypatch.setattr(timm, "is_model", lambda name: True)
    vit = VIT | {"image_size": 32, "pretrained": "vit_base_patch14_dinov2"}
    node = tokenizer_node | {
        "encoder": {
            "_target_": "imtok.tokenizers.encoders.vit_queries.QueryViTEncoder",
            "dim": 8,
            "latent_side": 4,
            **vit,
        },
        "decoder": {"_target_": "imtok.decoders.vit_queries.QueryViTDecoder", **vit},
    }
    tokenizer = build(node, key="tokenizer").eval()
    assert len(calls) == 2
    save_pretrained(tokenizer, tmp_path)
    again = from_pretrained(tmp_path)
    assert len(calls) == 2
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.tokenize(images), tokenizer.tokenize(images))


def test_measuring_fetches_nothing(monkeypatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: pytest.fail("weights were asked for"))
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), left_out():
        make(pretrained="vit_base_patch14_dinov2")
    with pytest.raises(UserError, match="neither a file nor a timm model"):
        make(pretrained="vit_of_nobody")
