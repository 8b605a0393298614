"""The parity check must pass on true fixtures and fail on every kind of damage."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from imtok.common.errors import UserError
from imtok.parity.rows import compare
from imtok.scripts.parity import check, fixtures_in, main

FIXTURES = Path(os.environ.get("IMTOK_PARITY", Path(__file__).parents[3] / "shared" / "parity"))
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="no parity fixtures beside the clone")


@needs_fixtures
@pytest.mark.parametrize("system", ["vqgan", "llamagen_vq16", "llamagen_vq8"])
def test_published_systems_hold(system, capsys):
    assert main([str(FIXTURES / system)]) == 0
    table = capsys.readouterr().out
    assert "decoded" in table and "FAILED" not in table and "0 of" in table


@needs_fixtures
@pytest.mark.parametrize(
    "name", ["gan_losses", "adaptive_gan_weight", "lecam", "patchgan_batchnorm", "patchgan_actnorm"]
)
def test_published_functions_hold(name):
    result = check(FIXTURES / "functions" / name)
    assert result.ok, [row for row in result.rows if not row.ok]


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(FIXTURES / "vqgan", tmp_path / "vqgan"))


def change_io(folder, change):
    io = load_file(folder / "io.safetensors")
    change(io)
    save_file(io, folder / "io.safetensors")


@needs_fixtures
def test_one_wrong_index_fails(copy):
    def change(io):
        io["indices"][0, 1, 2] += 1

    change_io(copy, change)
    failed = {row.output for row in check(copy).rows if not row.ok}
    assert "indices" in failed and "decoded" not in failed
    assert main([str(copy)]) == 1


@needs_fixtures
def test_an_error_of_two_tolerances_fails(copy):
    def change(io):
        io["decoded"][0, 0, 0, 0] += 2e-4 * io["decoded"].std()

    change_io(copy, change)
    assert [row.output for row in check(copy).rows if not row.ok] == ["decoded"]


@needs_fixtures
def test_an_output_nobody_computes_fails(copy):
    change_io(copy, lambda io: io.update(halting=torch.zeros(3)))
    (row,) = [row for row in check(copy).rows if not row.ok]
    assert row.output == "halting" and row.error == "not computed"


@needs_fixtures
def test_an_unknown_weight_key_fails(copy):
    weights = load_file(copy / "weights.safetensors")
    save_file({**weights, "encoder.extra.weight": torch.zeros(2)}, copy / "weights.safetensors")
    with pytest.raises(UserError, match=r"encoder\.extra\.weight"):
        main([str(copy)])


@needs_fixtures
def test_changed_weights_fail(copy):
    weights = load_file(copy / "weights.safetensors")
    weights["decoder.conv_out.bias"][0] += 0.01
    save_file(weights, copy / "weights.safetensors")
    assert {row.output for row in check(copy).rows if not row.ok} == {"decoded"}


def test_unknown_names_and_unreadable_folders_are_refused_in_one_line(tmp_path, capsys):
    for name, config in {"system": {"system": "nonesuch"}, "function": {"function": "nonesuch"}, "neither": {}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        save_file({"image": torch.zeros(1)}, tmp_path / name / "io.safetensors")
    with pytest.raises(UserError, match=r"'nonesuch' is not .*vqgan"):
        main([str(tmp_path / "system")])
    with pytest.raises(UserError, match=r"'nonesuch' is not .*patchgan"):
        main([str(tmp_path / "function")])
    with pytest.raises(UserError, match="neither 'system' nor 'function'"):
        main([str(tmp_path / "neither")])
    with pytest.raises(UserError, match=r"no config\.json"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError):
        main([str(tmp_path)])
    assert capsys.readouterr().err.count("imtok: ") == 2  # a line each, the last one is raised
    (tmp_path / "neither" / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        main([str(tmp_path / "neither")])


def test_tolerances():
    stored = torch.linspace(-1, 1, 101)
    limit = 1e-4 * float(stored.double().std())
    assert compare("x", stored + 0.9 * limit, stored).ok
    assert not compare("x", stored + torch.eye(101)[3] * 1.2 * limit, stored).ok
    assert not compare("x", stored * float("nan"), stored).ok
    assert compare("x", torch.tensor(100.005), torch.tensor(100.0)).ok
    assert not compare("x", torch.tensor(100.02), torch.tensor(100.0)).ok
    assert not compare("x", stored[:50], stored).ok
    assert not compare("x", torch.tensor([1, 2]), torch.tensor([1, 3])).ok
    assert compare("x", torch.tensor([1, 0]), torch.tensor([True, False])).ok


def test_a_folder_of_fixtures_stands_for_all_of_them(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "neither").mkdir()
    assert fixtures_in(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert fixtures_in(tmp_path / "a") == [tmp_path / "a"]
    assert fixtures_in(tmp_path / "neither") == [tmp_path / "neither"]  # refused by name later
