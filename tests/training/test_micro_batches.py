"""Whether an update can be divided as asked; that it is then the same is in tests/smoke/test_micro_batches.py."""

import pytest

from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.data.batch_division import divide_batch
from imtok.training.cost.update import update_cost
from imtok.training.factory import build_training
from imtok.training.micro_batches import _check_groups, _key


@pytest.mark.parametrize(
    ("batch", "processes", "accumulate", "images", "fits"),
    [
        (256, 32, 1, 8, True),  # as published
        (256, 8, 1, 8, True),
        (256, 1, 1, 8, True),
        (256, 8, 4, 8, True),
        (256, 64, 1, 8, False),  # half a group each
        (256, 8, 8, 8, False),
        (24, 2, 1, 8, False),  # one and a half
        (256, 64, 1, None, True),
        (4, 1, 1, 8, True),  # the update is one group
        (4, 2, 1, 8, True),
        (4, 1, 2, 8, False),  # whose halves come one after the other
    ],
)
def test_groups_of_images_lie_on_one_device(batch, processes, accumulate, images, fits):
    division = divide_batch(batch_size=batch, processes=processes, accumulate=accumulate)
    if fits:
        _check_groups("key", images, division)
        return
    with pytest.raises(
        UserError, match=rf"^key={images}: a device takes {division.per_device} images .* no whole groups"
    ):
        _check_groups("key", images, division)


def test_the_name_of_a_part_is_where_the_yaml_has_it():
    names = {
        "": "tokenizer.quantizer",
        "books.0": "tokenizer.quantizer",
        "parts.1": "tokenizer.quantizer.part",
        "quantizers.pixel.books.0": "tokenizer.quantizer.quantizers.pixel",
    }
    assert {name: _key(name) for name in names} == names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokenizer/quantizer=optvq"], r"^tokenizer.quantizer: its codes are assigned in balance"),
        (["tokenizer/quantizer=library_vq"], r"^tokenizer.quantizer: the library's codebook .*quantizer=ema_vq"),
        (["tokenizer/quantizer=ema_vq", "+tokenizer.quantizer.kmeans_init=true"], r"\.kmeans_init=true: .*=false"),
        (["tokenizer/quantizer=pca_vq", "tokenizer.quantizer.fit_updates=4"], r"\.fit_updates=4: .* fitted before"),
        (["tokenizer/quantizer=lfq"], r"^tokenizer.quantizer.entropy_images=null: H\(code\)"),
        (["adversary=patchgan"], r"^adversary.adaptive.per_device=false: .* of a whole update; \+adversary"),
        (
            ["adversary=patchgan", "adversary.adaptive=null", "adversary.discriminator.norm=act"],
            r"^adversary.discriminator.norm=act: its statistics start from",
        ),
    ],
)
def test_what_needs_the_whole_update_is_refused_by_name(words, said, tmp_path):
    asked = ["experiment=quickstart", "debug=tiny", "data.batch_size=4", "trainer.accumulate=2", *words]
    with pytest.raises(UserError, match=said) as caught:
        build_training(compose_config("train", asked), tmp_path)
    assert "\n" not in str(caught.value) and "trainer.accumulate=2" in str(caught.value)


def test_an_entropy_that_nothing_weighs_is_no_reason(tmp_path, capsys):
    words = ["experiment=quickstart", "debug=tiny", "data.batch_size=4", "trainer.accumulate=2", "adversary=patchgan"]
    words += ["tokenizer/quantizer=lfq", "loss.entropy.weight=0", "adversary.adaptive=null"]
    training, data = build_training(compose_config("train", words), tmp_path)
    assert training.settings.accumulate == 2 and data.division.per_device == 2
    assert (
        "trainer.accumulate=2: batch norm in adversary takes the statistics of each micro-batch"
        in capsys.readouterr().err
    )


def test_a_plan_is_refused_as_the_run_would_be():
    config = compose_config("train", ["experiment=open_magvit2_256", "debug=tiny", "data.batch_size=16"])
    assert update_cost(config, processes=2).division.per_device == 8
    with pytest.raises(UserError, match=r"^tokenizer.quantizer.entropy_images=8: a device takes 4 images"):
        update_cost(config, processes=4)
