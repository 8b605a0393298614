"""Stored answers in the place of frozen networks, stored draws in the place of chance."""

import torch

from imtok.common.types import Stream
from imtok.losses.teachers.registry import NamedTeachers
from imtok.losses.total import WeightedLosses
from imtok.parity.stand_ins import Step, StoredTeachers, put_in_place, stored_noise
from imtok.tokenizers.quantizers.kl import KL
from imtok.tokenizers.tokenizer import Tokenizer

SCALES = {"_target_": "imtok.tokenizers.quantizers.multi_scale_vq.MultiScaleVQ", "scales": [1, 2, 8]}


def step_of(node: dict) -> Step:
    parts = {name: value for name, value in node.items() if name != "_target_"}
    return Step(tokenizer=Tokenizer(**parts).train(), losses=WeightedLosses(terms={}, weights={}), adversary=None)


def test_every_teacher_answers_what_is_stored() -> None:
    io = {"teacher_features": torch.randn(2, 16, 5), "teacher_pooled": torch.randn(2, 7)}
    teachers: NamedTeachers = StoredTeachers({"dinov2_b": {"_target_": "no.such.Class"}}, io)
    teacher = teachers.get("dinov2_b", asked_by="loss.x.term.teacher")
    assert (teacher.tokens_dim, teacher.pooled_dim) == (5, 7) and not teachers.unused
    seen = teacher(torch.rand(2, 3, 8, 8))
    assert seen.tokens_BND is io["teacher_features"] and seen.pooled_BD is io["teacher_pooled"] and seen.grid == (4, 4)


def test_stored_noise_is_the_one_that_is_drawn() -> None:
    kl, z, noise = KL(dim=8, project=False), torch.randn(2, 6, 8), torch.randn(2, 4, 1, 6)
    with stored_noise({"noise": noise}):
        sampled = kl({"main": Stream(z)}).codes["main"].x_BND
        assert not torch.equal(torch.randn_like(z), torch.randn_like(z))  # of another shape
    mean, log_variance = z.chunk(2, dim=-1)
    torch.testing.assert_close(sampled, mean + (log_variance / 2).exp() * noise[:, :, 0].transpose(1, 2))


def test_stored_depths_are_those_of_the_first_samples(tokenizer_node) -> None:
    step = step_of({**tokenizer_node, "quantizer": {**SCALES, "quantizer_dropout": 0.5}})
    put_in_place(step, {"quantizer_dropout": torch.tensor([1, 2, 1, 1])})
    assert step.tokenizer.quantizer.draw_depths(4, torch.device("cpu")).tolist() == [1, 2, 3, 3]


def test_kept_tokens_are_shown(variable_node) -> None:
    step = step_of(variable_node)
    put_in_place(step, {"kept_tokens": torch.tensor(5)})
    assert step.tokenizer.variable().draw(3, 64, torch.device("cpu")).tolist() == [5, 5, 5]
