"""Against the distance of the teacher's own pooled vectors, by numpy and scipy's definition."""

import numpy as np
import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import MissingWeights, UserError
from imtok.common.pixels import to_model_range
from imtok.eval.metrics import TeacherFrechet
from imtok.eval.metrics.registry import names_in, yaml_of


def images(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return a, a // 2 + 20


def test_it_is_the_distance_of_the_pooled_vectors() -> None:
    a, b = images()
    metric = TeacherFrechet(teacher="dinov2_b", weights="random", small=True)
    for start in range(0, 40, 16):
        metric.update(a[start : start + 16], b[start : start + 16])
    node = yaml_of("teacher", "dinov2_b", key="teacher")["dinov2_b"]
    teacher = build(node | node["tiny"], key="teacher")
    x, y = (teacher(to_model_range(side)).pooled_BD.double().numpy() for side in (a, b))
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(cov_x @ cov_y).astype(complex)).real.sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * roots
    [(key, found)] = metric.result().items()
    assert key == "fd[dinov2_b][random]@40" and found["n"] == 40
    assert found["value"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("teacher", names_in("teacher"))
def test_every_teacher_can_be_named(teacher: str) -> None:
    metric = TeacherFrechet(teacher=teacher, weights="random", small=True, image_size=32)
    metric.update(*images(3))
    assert list(metric.result()) == [f"fd[{teacher}][random]@3"]


def test_a_mistake_is_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match="no teacher 'dinov2'; did you mean"):
        TeacherFrechet(teacher="dinov2").prepare(torch.device("cpu"))
    with pytest.raises(MissingWeights, match=r"teacher_fd\.teacher\.weights=.*train-teacher"):
        TeacherFrechet(teacher="generated").prepare(torch.device("cpu"))
