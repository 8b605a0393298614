"""Token dropout with every decoder and quantizer there is: hidden tokens count for nothing, or the build refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.tokenizers.tokenizer import Tokenizer

from ...contracts.token_dropout import a_prefix_of_indices_says_its_codes, hidden_tokens_count_for_nothing

FOLDER = Path(__file__).resolve().parents[3] / "configs" / "tokenizer"
DROPOUTS = sorted(path.stem for path in (FOLDER / "token_dropout").glob("*.yaml"))
# What a decoder is tried in, and whether a tail may be cut off before it; None: codes of several streams, no dropout.
DECODERS: dict[str, tuple[list[str], bool | None]] = {
    "cnn": (["experiment=llamagen_vq16"], False),
    "cnn_magvit2": (["experiment=wetok_imagenet_f16"], False),
    "cnn_maskgit": (["experiment=maskgit_vqgan"], False),
    "cnn_movq": (["experiment=dualvitok_256"], None),
    "cnn_qformer": (["experiment=gigatok_ss"], True),
    "cnn_rqvae": (["experiment=llamagen_vq16", "tokenizer/decoder=cnn_rqvae"], False),
    "flow": (["experiment=flextok_d12_d12"], False),
    "mask_token_vit": (["experiment=titok_bl64_vq"], True),
    "merged": (["experiment=llamagen_vq16", "tokenizer/decoder=merged"], False),
    "one_stream": (["experiment=dualtoken_256"], None),
    "proxy_codes": (["experiment=titok_s128/stage1"], True),
    "rotary_latents": (["experiment=instella_bae"], True),
    "vit_queries": (["experiment=xqgan_vq_4096"], False),
    "vitamin": (["experiment=unitok", "tokenizer.quantizer.projection=linear"], False),
}
OF_TWO_STREAMS = {"joint_vq", "dual_sim_vq", "dual_residual_vq"}  # refused above, with their decoders
QUANTIZERS = sorted({path.stem for path in (FOLDER / "quantizer").glob("*.yaml")} - OF_TWO_STREAMS)
CNN = {"channels": 32, "channel_multipliers": [1, 1, 2], "blocks_per_level": 1, "z_channels": 16}


def composed(words: list[str], dropout: str) -> Tokenizer:
    words = [*words, f"tokenizer/token_dropout={dropout}", "debug=tiny"]
    return build(compose_config("train", words)["tokenizer"], key="tokenizer")


def test_every_decoder_is_tried() -> None:
    assert set(DECODERS) == {path.stem for path in (FOLDER / "decoder").glob("*.yaml")}


@pytest.mark.parametrize("dropout", DROPOUTS)
@pytest.mark.parametrize("name", DECODERS)
def test_hidden_tokens_count_for_nothing_or_the_build_refuses(name: str, dropout: str) -> None:
    words, may_be_cut = DECODERS[name]
    if may_be_cut is None or (dropout == "tail_drop" and not may_be_cut):
        with pytest.raises(UserError, match=r"^tokenizer\.token_dropout=\w+: .*(null|nested)"):
            composed(words, dropout)
        return
    hidden_tokens_count_for_nothing(composed(words, dropout))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_prefix_of_indices_says_its_codes_or_the_build_refuses(name: str) -> None:
    yaml_node: dict[str, Any] = yaml.safe_load((FOLDER / "quantizer" / f"{name}.yaml").read_text())
    node = {
        "image_size": 32,
        "encoder": {"_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder", "dim": 16, **CNN},
        "quantizer": yaml_node | yaml_node.get("tiny", {}),
        "decoder": {"_target_": "imtok.decoders.cnn.CNNDecoder", **CNN},
        "token_dropout": {"_target_": "imtok.tokenizers.token_dropout.nested.NestedDropout"},
    }
    if "multi_scale" in name:
        with pytest.raises(
            UserError, match=r"^tokenizer\.token_dropout=NestedDropout: the codes of (MultiScale|Product)"
        ):
            Tokenizer(**node)
        return
    tokenizer, images = Tokenizer(**node).eval(), torch.rand(3, 3, 32, 32) * 2 - 1
    if not tokenizer.index_layout():
        assert tokenizer.reconstruct(images, num_tokens=3).shape == images.shape
        return
    for lengths in (5, [64, 1, 17]):
        a_prefix_of_indices_says_its_codes(tokenizer, lengths)


def test_attention_behind_the_codebook_says_what_it_can() -> None:
    words = ["experiment=unitok", "tokenizer.quantizer.projection=causal_attention"]
    tokenizer = composed(words, "nested").eval()
    images = torch.rand(2, 3, *tokenizer.image_size) * 2 - 1
    prefix = tokenizer.tokenize(images, num_tokens=2)
    torch.testing.assert_close(tokenizer.detokenize(prefix), tokenizer.reconstruct(images, num_tokens=2))
    with pytest.raises(UserError, match=r"^tokenizer\.token_dropout=NestedDropout: the codes of MultiCodebook"):
        composed(words[:1], "nested")


def test_lengths_that_there_are_not_are_refused_at_build() -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.token_dropout\.lengths=\[4, 999\]: there are \d+ tokens"):
        composed(["experiment=quickstart_flow", "tokenizer.token_dropout.lengths=[4,999]"], "nested")


def test_a_head_that_reads_all_tokens_needs_all() -> None:
    words = ["experiment=titok_bl64_vq", "+tokenizer/head@tokenizer.heads.meaning=mlp"]
    assert composed(words, "nested").heads.meaning is not None
    with pytest.raises(UserError, match=r"tokenizer\.token_dropout=TailDrop: .*tokenizer\.heads\.meaning"):
        composed(words, "tail_drop")
    assert composed([*words[:1], "+tokenizer/head@tokenizer.heads.meaning=pooled"], "tail_drop")
