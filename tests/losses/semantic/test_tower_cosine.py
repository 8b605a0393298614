"""The cosine to the tokenizer's own tower, and that the tower learns nothing from it."""

import torch
import torch.nn.functional as F
from torch import nn

from imtok.common.types import Quantized, Stream, TokenizerOutput
from imtok.losses.semantic.tower_cosine import TowerCosine
from imtok.losses.total import WeightedLosses


def output(head: torch.Tensor, tower: torch.Tensor) -> TokenizerOutput:
    latents = {"main": Stream(head)}
    return TokenizerOutput(
        latents, Quantized(latents, {}), None, heads={"semantic": head}, features={"encoder.semantic.tower": tower}
    )


def test_it_is_one_minus_the_mean_cosine_and_stops_at_the_tower() -> None:
    head, tower = torch.randn(2, 5, 8, requires_grad=True), torch.randn(2, 5, 8, requires_grad=True)
    loss = TowerCosine()({"image": torch.zeros(2, 3, 4, 4)}, output(head, tower))
    torch.testing.assert_close(loss, (1 - F.cosine_similarity(head, tower, dim=-1)).mean())
    loss.backward()
    assert head.grad is not None and tower.grad is None
    same = tower.detach()
    assert float(TowerCosine()({}, output(same * 3, same))) < 1e-6


def test_it_asks_for_its_tap() -> None:
    class Tokenizer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            from imtok.tokenizers.feature_taps import FeatureTaps

            self.taps, self.heads = FeatureTaps(), nn.ModuleDict({"semantic": nn.Linear(2, 2)})
            self.encoder = nn.ModuleDict({"semantic": nn.ModuleDict({"tower": nn.Linear(2, 2)})})
            self.quantizer, self.decoder = nn.Identity(), nn.Identity()

    tokenizer = Tokenizer()
    term = {"_target_": "imtok.losses.semantic.tower_cosine.TowerCosine"}
    WeightedLosses.from_config({"tower_cosine": {"term": term}}, tokenizer)
    seen = tokenizer.encoder["semantic"]["tower"](torch.ones(1, 2))
    assert torch.equal(tokenizer.taps.collect()["encoder.semantic.tower"], seen)
