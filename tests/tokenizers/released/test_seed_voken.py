"""Readers of Open-MAGVIT2, IBQ and WeTok, against their reference implementations' outputs."""

import pytest
import torch

from imtok.common.errors import UserError
from imtok.tokenizers import released

from .compared import check_fixture, imported, read


@pytest.mark.parametrize(
    ("system", "inputs"),
    [("open_magvit2", ()), ("ibq", ("grad_probe",)), ("wetok", ()), ("wetok_gan", ("decoder_noise",))],
)
def test_every_output_of_the_reference(parity_folder, system: str, inputs: tuple[str, ...]) -> None:
    check_fixture(parity_folder / system, system, inputs=inputs)


@pytest.mark.parametrize("system", ["open_magvit2", "ibq", "wetok_gan"])
def test_ema_copies_are_preferred_and_the_rest_of_training_left(parity_folder, system: str) -> None:
    constructor, state, _ = read(parity_folder / system)
    copies = {"model_ema." + name.replace(".", ""): value + 1 for name, value in state.items()}
    training = {
        "model_ema.decay": torch.tensor(0.999),
        "model_ema.num_updates": torch.tensor(5),
        "model_ema.lossdiscriminatormain0weight": torch.zeros(3),
        "loss.discriminator.main.0.weight": torch.zeros(3),
    }
    family = released.find(system)
    tokenizer, report = family.import_state({**state, **copies, **training}, image_size=64, constructor=constructor)
    assert set(report.used) == set(copies)
    assert set(report.ignored) == set(state) | set(training)
    live = imported(parity_folder / system, system).state_dict()
    for name, value in tokenizer.state_dict().items():
        torch.testing.assert_close(value, live[name] + 1)


def test_without_the_references_arguments(parity_folder) -> None:
    _, state, io = read(parity_folder / "wetok_gan")
    tokenizer, _ = released.find("wetok_gan").import_state(state, image_size=64)
    assert tokenizer.quantizer.groups == 3  # published groups have 8 bits; this fixture's have 6
    assert tokenizer.decoder.draws_noise
    assert torch.equal(tokenizer.reconstruct(io["image"]), tokenizer.reconstruct(io["image"]))


def test_wrong_files_are_refused_by_name(parity_folder) -> None:
    _, state, _ = read(parity_folder / "open_magvit2")
    family = released.find("open_magvit2")
    short = {k: v for k, v in state.items() if k != "decoder.adaptive.2.gamma.bias"}
    with pytest.raises(UserError, match=r"1 missing: decoder.norms.2.scale.bias"):
        family.import_state(short, image_size=64)
    with pytest.raises(UserError, match=r"1 unexpected: encoder.surprise"):
        family.import_state({**state, "encoder.surprise": torch.zeros(1)}, image_size=64)
    _, vqgan, _ = read(parity_folder / "maskgit_vqgan")
    with pytest.raises(UserError, match=r"decoder.levels.0.1.conv.weight|missing"):
        family.import_state(vqgan, image_size=64)
    with pytest.raises(UserError, match="not of the family"):
        family.import_state({"backbone.weight": torch.zeros(1)})
