"""What lies beside an export, and what it measures once it is read back: the same as the live terms."""

import hashlib
import json
from typing import Any

import pytest
import torch
from safetensors import safe_open

from imtok import from_pretrained
from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.eval.probes.alignment import Alignment, export_alignment, load_alignment, save_alignment
from imtok.eval.probes.measure import MeaningData, measure_meaning
from imtok.eval.probes.pooled_codes import QUANTIZED, pooled_codes
from imtok.losses.teachers.registry import NamedTeachers
from imtok.losses.total import WeightedLosses
from imtok.training.checkpoint import trained_state

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


def test_an_export_keeps_its_towers_beside_it(tokenizer_node, tmp_path) -> None:
    tokenizer, losses, config = live(tokenizer_node)
    tokenizer.save_pretrained(tmp_path)
    save_alignment(losses, config, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(tokenizer.state_dict())
    with safe_open(tmp_path / "alignment" / "model.safetensors", "pt") as file:
        keys = set(file.keys())
    assert any(k.startswith("clip.tower") for k in keys) and "cosine.projectors.tokens.weight" in keys
    assert not any("network" in k for k in keys if k.startswith("cosine")), "a teacher is named, not copied"

    before = numbers(tokenizer, Alignment.of_losses(losses))
    loaded = from_pretrained(tmp_path)
    alignment = load_alignment(tmp_path, loaded)
    assert alignment.random == ["cosine"] and set(alignment.terms) == {"clip", "cosine"}
    assert numbers(loaded, alignment) == before

    checkpoint = {"config": config, "losses": trained_state(losses)}
    again = tmp_path / "again"
    assert not export_alignment(checkpoint, loaded, again).missing
    assert numbers(loaded, load_alignment(again, loaded)) == before


def test_what_each_number_says(tokenizer_node) -> None:
    tokenizer, losses, _ = live(tokenizer_node)
    found = numbers(tokenizer, Alignment.of_losses(losses))
    by_name = {(n["name"], n["through_quantizer"]): n for n in found}
    for path in (True, False):
        probe = by_name["Linear probe", path]
        assert probe["value"] > 0.5, "even an untrained tokenizer's codes tell walls of one colour from others"
        assert (probe["n"], probe["fitted_on"], probe["chance"]) == (30, 60, pytest.approx(1 / 3))
        assert by_name["k-NN", path]["value"] > 0.5
    assert by_name["Zero-shot accuracy", True]["chance"] == pytest.approx(1 / 3)
    assert by_name["Zero-shot accuracy", True]["n"] == 30
    assert by_name["Retrieval R@1, image to text", True]["chance"] == pytest.approx(1 / 30)
    assert -1 <= by_name["Cosine to small", True]["value"] <= 1
    assert by_name["Cosine to small", True]["random_weights"] and not by_name["Linear probe", True]["random_weights"]


def test_a_teacher_from_a_file_is_marked(tokenizer_node, tmp_path) -> None:
    file = tmp_path / "teacher.pth"
    torch.save(build(TEACHER, key="teacher").network.state_dict(), file)
    config = config_of(tokenizer_node) | {"teacher": {"small": TEACHER | {"weights": str(file)}}}
    tokenizer = build(tokenizer_node, key="tokenizer")
    losses = WeightedLosses.from_config(config["loss"], tokenizer, NamedTeachers(config["teacher"]))
    [number] = [n for n in numbers(tokenizer, Alignment.of_losses(losses)) if n["probe"] == "teacher_cosine"]
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    assert number["name"] == f"Cosine to small[{digits}]" and not number["random_weights"]


def test_what_cannot_be_measured_has_a_reason(tokenizer_node) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer").eval()

    def reasons(fit: list, held_out: list) -> dict[str, str]:
        data = MeaningData(fit=fit, held_out=held_out)
        return measure_meaning(tokenizer, data, probes=PROBES, device=torch.device("cpu")).not_computed

    assert "too few for 3 classes" in reasons(batches(6), batches(6))["linear_probe"]
    assert "every image is measured" in reasons(None, batches(6))["knn"]
    unlabelled = [b | {"label": torch.full((6,), -1)} for b in batches(6)]
    assert reasons(batches(60), unlabelled)["knn"] == "these images have no labels"
    assert "no alignment/" in reasons(batches(60), batches(6))["zero_shot"]
    assert "no loss compared" in reasons(batches(60), batches(6))["teacher_cosine"]


def test_several_streams_are_read_alone_and_together(tokenizer_node) -> None:
    node = tokenizer_node | {
        "encoder": {
            "_target_": "imtok.tokenizers.encoders.parallel.ParallelEncoder",
            "encoders": {
                "semantic": {
                    "_target_": "imtok.tokenizers.encoders.timm_grid.TimmGridEncoder",
                    "dim": 4,
                    "model_args": TEACHER["model_args"],
                },
                "pixel": tokenizer_node["encoder"],
            },
        },
        "quantizer": {
            "_target_": "imtok.tokenizers.quantizers.parallel.ParallelQuantizer",
            "quantizers": {"semantic": tokenizer_node["quantizer"], "pixel": tokenizer_node["quantizer"]},
        },
        "decoder": {"_target_": "imtok.decoders.merged.MergedDecoder", "decoder": tokenizer_node["decoder"]},
    }
    tokenizer = build(node, key="tokenizer").eval()
    found = pooled_codes(tokenizer, batches(12), device=torch.device("cpu"))
    assert found.codes[QUANTIZED, "all"].shape == (12, 4 + 8)
    torch.testing.assert_close(found.codes[QUANTIZED, "all"][:, :4], found.codes[QUANTIZED, "semantic"])
    images = batches(12)[0]["image"]
    indices = tokenizer.tokenize(images)
    assert indices.shape == (6, 1 + 64, 1)
    torch.testing.assert_close(tokenizer.detokenize(indices), tokenizer.reconstruct(images))


def test_a_damaged_or_stranger_alignment_is_one_line(tokenizer_node, tmp_path) -> None:
    tokenizer, losses, config = live(tokenizer_node)
    save_alignment(losses, config, tmp_path)
    file = tmp_path / "alignment" / "config.json"
    facts = json.loads(file.read_text())
    facts["terms"]["clip"]["_target_"] = "subprocess.Popen"
    file.write_text(json.dumps(facts))
    assert "may only name classes of imtok" in load_alignment(tmp_path, tokenizer).missing["clip"]
    file.write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        load_alignment(tmp_path, tokenizer)


def test_the_tokenizers_own_tower_is_a_teacher_too(tokenizer_node, tmp_path) -> None:
    """DualViTok's wiring: the head's tokens against the frozen tower's, before and after export."""
    node = tokenizer_node | {"heads": {"semantic": {"_target_": "imtok.decoders.heads.mlp.MLPHead", "out_dim": 16}}}
    target = "encoder.conv_out"
    tokenizer = build(node, key="tokenizer")
    width = tokenizer.get_submodule(target).out_channels
    node["heads"]["semantic"]["out_dim"] = width
    tokenizer = build(node, key="tokenizer")
    term = {"_target_": "imtok.losses.semantic.tower_cosine.TowerCosine", "reads": "heads.semantic", "target": target}
    config = {"tokenizer": node, "loss": {"tower": {"term": term}}}
    losses = WeightedLosses.from_config(config["loss"], tokenizer)
    tokenizer.save_pretrained(tmp_path)
    save_alignment(losses, config, tmp_path)

    loaded = from_pretrained(tmp_path)
    data = MeaningData(fit=None, held_out=batches(12), alignment=load_alignment(tmp_path, loaded))
    [number] = measure_meaning(
        loaded,
        data,
        probes=["teacher_cosine"],
        device=torch.device("cpu"),
    ).numbers
    seen = []
    loaded.get_submodule(target).register_forward_hook(lambda *call: seen.append(call[-1].flatten(2).transpose(1, 2)))
    with torch.no_grad():
        heads = torch.cat([loaded(b["image"]).heads["semantic"] for b in data.held_out])
    expected = torch.nn.functional.cosine_similarity(heads, torch.cat(seen), dim=-1).mean()
    assert number["value"] == pytest.approx(float(expected), abs=1e-5)
    assert (number["name"], number["through_quantizer"], number["n"]) == (f"Cosine to {target}", True, 12)
    checkpoint = {"config": config, "losses": trained_state(losses)}
    assert set(export_alignment(checkpoint, loaded, tmp_path / "again").terms) == {"tower"}


def test_a_tap_in_the_decoder_is_read(tokenizer_node) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer").eval()
    path = "decoder.conv_in"
    term = {"_target_": "imtok.losses.semantic.tower_cosine.TowerCosine", "reads": f"features.{path}", "target": path}
    losses = WeightedLosses.from_config({"tower": {"term": term}}, tokenizer)
    found = pooled_codes(tokenizer, batches(6), device=torch.device("cpu"), terms=dict(losses.terms))
    torch.testing.assert_close(found.cosines["tower"], torch.ones(6))
