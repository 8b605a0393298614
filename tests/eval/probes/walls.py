"""Walls of one colour with labels and captions, and losses that compare their codes with texts and a teacher."""

from typing import Any

import torch

from imtok.common.build import build
from imtok.eval.probes.alignment import Alignment
from imtok.eval.probes.measure import MeaningData, measure_meaning
from imtok.losses.teachers.registry import NamedTeachers
from imtok.losses.total import WeightedLosses

COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}
PROBES = ("linear_probe", "knn", "zero_shot", "retrieval", "teacher_cosine")
TOWER = {"width": 8, "layers": 1, "heads": 2, "dim": 6, "max_tokens": 16}
TEACHER = {
    "_target_": "imtok.losses.teachers.timm_teacher.TimmTeacher",
    "model": "resnet10t",
    "weights": "random",
    "image_size": 32,
    "model_args": {"channels": [8, 8, 8, 8], "stem_width": 8},
}


def config_of(tokenizer_node: dict[str, Any]) -> dict[str, Any]:
    loss = {
        "l1": {"term": {"_target_": "imtok.losses.pixel.L1"}},
        "clip": {
            "term": {
                "_target_": "imtok.losses.semantic.contrastive.ClipInfoNCE",
                "tower": {"_target_": "imtok.losses.teachers.text_tower.TextTower", **TOWER},
            }
        },
        "cosine": {
            "term": {
                "_target_": "imtok.losses.semantic.cosine.SemanticCosine",
                "teacher": "small",
                "reads": "codes.main",
                "projector": "linear",
            }
        },
    }
    return {"tokenizer": tokenizer_node, "loss": loss, "teacher": {"small": TEACHER}}


def batches(count: int, size: int = 6) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(count)
    made = []
    for first in range(0, count, size):
        names = [list(COLOURS)[i % 3] for i in range(first, first + size)]
        image = torch.tensor([COLOURS[n] for n in names])[:, :, None, None].expand(-1, -1, 32, 32)
        image = (image * 0.8 + 0.05 * torch.randn(image.shape, generator=generator)).clamp(-1, 1)
        made.append(
            {
                "image": image,
                "label": torch.tensor([list(COLOURS).index(n) for n in names]),
                "caption": [f"a {n} wall" for n in names],
                "key": [f"{first + i:04d}" for i in range(size)],
            }
        )
    return made


def live(tokenizer_node: dict[str, Any]) -> tuple[torch.nn.Module, WeightedLosses, dict[str, Any]]:
    config = config_of(tokenizer_node)
    tokenizer = build(tokenizer_node, key="tokenizer")
    losses = WeightedLosses.from_config(config["loss"], tokenizer, NamedTeachers(config["teacher"]))
    return tokenizer, losses, config


def numbers(tokenizer: torch.nn.Module, alignment: Alignment, **data: Any) -> list[dict[str, Any]]:
    given = {"fit": batches(60), "held_out": batches(30), "class_names": list(COLOURS), "alignment": alignment} | data
    found = measure_meaning(tokenizer.eval(), MeaningData(**given), probes=PROBES, device=torch.device("cpu"))
    assert not found.not_computed
    return found.numbers
