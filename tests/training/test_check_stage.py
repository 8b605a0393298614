"""Frozen parts need weights from somewhere: init_from, or published ones named where the part lies."""

import pytest

from imtok.common.errors import UserError
from imtok.training.factory import check_stage

TOWER = {"pretrained": "vit_so400m_patch16_siglip_256.v2_webli"}


def config(freeze, **tokenizer):
    nodes = {"encoder": {"tower": TOWER, "dim": 8}, "quantizer": {}, "decoder": {}} | tokenizer
    return {"init_from": None, "ckpt_path": None, "weights": "pretrained", "freeze": freeze, "tokenizer": nodes}


class NoModules:
    def named_modules(self):
        return []


@pytest.mark.parametrize(
    ("freeze", "nodes"),
    [
        (["encoder"], {}),
        (["encoder", "quantizer"], {}),
        (["encoder.tower"], {}),
        (["encoder.tower.blocks.0"], {}),
        (["encoder.net.blocks.0"], {"encoder": {"pretrained": "vit"}}),
        (["decoder"], {}),
        ([], {}),
    ],
)
def test_fine(freeze, nodes):
    check_stage(config(freeze, **nodes), NoModules())


@pytest.mark.parametrize(
    ("freeze", "nodes"),
    [
        (["quantizer"], {}),
        (["encoder"], {"encoder": {}}),
        (["encoder.to_semantic"], {}),  # beside the tower, not in it
        (["encoder.tower.blocks.0"], {"encoder": {"tower": {"pretrained": None}}}),
        (["quantizer.project"], {}),
    ],
)
def test_frozen_from_nothing(freeze, nodes):
    with pytest.raises(UserError, match="give init_from=DIR"):
        check_stage(config(freeze, **nodes), NoModules())
    check_stage(config(freeze, **nodes) | {"init_from": "DIR"}, NoModules())
    check_stage(config(freeze, **nodes) | {"weights": "random"}, NoModules())
