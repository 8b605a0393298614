"""Errors name the key where a part really stands: renamed, nested, or in the adversary."""

import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import MissingWeights, UserError
from imtok.losses.total import WeightedLosses

LPIPS = {"_target_": "imtok.losses.lpips.LPIPS", "net": "alex", "weights": "random"}
ADVERSARY = "imtok.losses.adversarial"
ADAPTIVE = {"_target_": f"{ADVERSARY}.adaptive_weight.AdaptiveWeight", "minimum": -1.0}
PATCHGAN = {"_target_": f"{ADVERSARY}.patchgan.PatchGAN", "ndf": 8}
AUGMENT = {"_target_": f"{ADVERSARY}.diff_augment.DiffAugment", "cutout": 2.0}


def test_a_renamed_and_a_nested_loss(FakeTokenizer) -> None:
    with pytest.raises(MissingWeights, match=r"^loss\.sharp\.term\.weights=nowhere: no such file"):
        WeightedLosses.from_config({"sharp": {"term": LPIPS | {"weights": "nowhere"}}}, FakeTokenizer())
    nested = {"_target_": "imtok.losses.direct_decode.DirectDecode", "terms": {"fine": LPIPS | {"weights": "nowhere"}}}
    with pytest.raises(MissingWeights, match=r"^loss\.warm\.term\.terms\.fine\.weights=nowhere: no such file"):
        WeightedLosses.from_config({"warm": {"term": nested}}, FakeTokenizer())


def test_what_a_nested_loss_cannot_read(FakeTokenizer) -> None:
    tokenizer = FakeTokenizer()
    tokenizer.decoder.paint = lambda x: x
    quantizer = {"_target_": "imtok.losses.quantizer.QuantizerTerm", "key": "nothing"}
    nested = {"_target_": "imtok.losses.direct_decode.DirectDecode", "terms": {"l1": LPIPS, "own": quantizer}}
    with pytest.raises(UserError, match=r"^loss\.warm\.term\.terms\.own\.key=nothing: "):
        WeightedLosses.from_config({"warm": {"term": nested}}, tokenizer)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"discriminator": PATCHGAN | {"n_layers": 0}}, r"discriminator\.n_layers=0: "),
        (
            {"adaptive": {"_target_": f"{ADVERSARY}.adaptive_weight.AdaptiveWeight", "minimum": -1.0}},
            r"adaptive\.minimum=",
        ),
        ({"lecam": {"_target_": f"{ADVERSARY}.lecam.LeCam", "decay": 2.0}}, r"lecam\.decay=2\.0: "),
        (
            {"consistency": {"_target_": f"{ADVERSARY}.consistency.BalancedConsistency", "augment": AUGMENT}},
            r"consistency\.augment\.cutout=2\.0: ",
        ),
        ({"weight": {"shape": "linear", "ende": 3}}, r"weight"),
        ({"reconstruction_terms": {"l1": -1.0}}, r"reconstruction_terms\.l1=-1\.0: "),
        ({"ramp": -1}, r"ramp=-1: "),
    ],
)
def test_parts_of_an_adversary(settings, says) -> None:
    node = {"_target_": f"{ADVERSARY}.adversary.Adversary", "discriminator": PATCHGAN, **settings}
    with pytest.raises(UserError, match=rf"^second\.adversary\.{says}"):
        build(node, key="second.adversary")


def test_weights_that_a_loss_chooses_when_it_sees_the_tokenizer(FakeTokenizer) -> None:
    tokenizer = FakeTokenizer()
    tokenizer.decoder.trains = "codes"
    sizes = {"codebook_size": 4, "code_dim": 8, "channels": 32, "channel_multipliers": (1, 1), "blocks_per_level": 1}
    tokenizer.decoder.proxy_sizes = sizes
    node = {"_target_": "imtok.losses.proxy_codes.ProxyCodes", "weights": "nowhere"}
    with pytest.raises(MissingWeights, match=r"^loss\.mine\.term\.weights=nowhere: no such file"):
        WeightedLosses.from_config({"mine": {"term": node}}, tokenizer)


def test_a_network_of_another_file_is_marked(FakeTokenizer, tmp_path) -> None:
    def losses(weights: str) -> WeightedLosses:
        return WeightedLosses.from_config({"sharp": {"term": LPIPS | {"weights": weights}}}, FakeTokenizer())

    drawn = losses("random")
    assert drawn.random_weights == ["sharp"] and drawn.other_weights == {}
    torch.save(drawn.terms["sharp"].net.module.features.state_dict(), tmp_path / "edges.pth")
    other = losses(str(tmp_path / "edges.pth"))
    assert other.random_weights == []
    assert other.other_weights == {"sharp": other.terms["sharp"].net.origin.sha256[:8]}
