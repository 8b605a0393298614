"""What lies beside an export, and what it measures once it is read back: the same as the live terms."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from walls import PROBES, TEACHER, TOWER, batches, config_of, live, numbers

from imtok import from_pretrained
from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.eval.probes.alignment import (
    Alignment,
    export_alignment,
    import_alignment,
    load_alignment,
    remove_alignment,
    save_alignment,
)
from imtok.eval.probes.measure import MeaningData, measure_meaning
from imtok.eval.probes.pooled_codes import QUANTIZED, pooled_codes
from imtok.losses.teachers.registry import NamedTeachers
from imtok.losses.total import WeightedLosses
from imtok.training.checkpoint import trained_state


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


FROZEN = {"_target_": "imtok.losses.teachers.text_tower.TextTower", "trainable": False, **TOWER}


def test_a_training_tower_comes_from_the_checkpoint_and_a_frozen_one_from_its_own_weights(
    tokenizer_node, tmp_path
) -> None:
    torch.save(build(FROZEN, key="tower").network.state_dict(), tmp_path / "tower.pt")
    config = config_of(tokenizer_node)
    clip = config["loss"]["clip"]["term"]
    nodes = {
        "clip": {"term": clip},
        "drawn": {"term": clip | {"tower": FROZEN}},
        "file": {"term": clip | {"tower": FROZEN | {"weights": str(tmp_path / "tower.pt")}}},
        "cosine": config["loss"]["cosine"],
    }
    tokenizer = build(tokenizer_node, key="tokenizer")
    losses = WeightedLosses.from_config(nodes, tokenizer, NamedTeachers(config["teacher"]))
    assert losses.terms["file"].tower.origin.path and losses.random_weights == ["drawn", "cosine"]
    gone = clip["tower"] | {"weights": str(tmp_path / "gone.pt"), "tiny": {"width": 4}}  # a start, long overwritten
    recorded = nodes | {"clip": {"term": clip | {"tower": gone}}, "left_out": None, "without_term": {"weight": 1.0}}
    whole = {"loss": recorded, "teacher": config["teacher"] | {"unused": None}}
    state = trained_state(losses)
    out = tmp_path / "deep" / "out"
    for _ in range(2):  # the second time over the first
        found = export_alignment({"config": whole, "losses": state}, tokenizer, out)
    assert set(found.missing) == {"file"} and "a loaded config names no files" in found.missing["file"]
    assert found.random == ["drawn", "cosine"]
    for alignment in (found, load_alignment(out, tokenizer)):
        assert set(alignment.terms) == {"clip", "drawn", "cosine"}
        for name in ("clip", "drawn"):
            term = alignment.terms[name]
            assert not term.training and not any(p.requires_grad for p in term.parameters())
            for key, value in losses.terms[name].state_dict().items():
                assert torch.equal(term.state_dict()[key], value) or (name == "drawn" and "tower" in key), key
    facts = json.loads((out / "alignment" / "config.json").read_text())
    assert set(facts["teachers"]) == {"small"}
    tower = facts["terms"]["clip"]["tower"]
    assert (tower["weights"], tower["tag"]) == ("random", None) and "tiny" not in tower

    save_alignment(losses, whole, tmp_path)  # at the end of the run the tower itself is there
    kept = load_alignment(tmp_path, tokenizer).terms["file"]
    for key, value in losses.terms["file"].state_dict().items():
        assert torch.equal(kept.state_dict()[key], value), key


def test_weights_of_others_are_read_whole_or_explained(tokenizer_node, tmp_path) -> None:
    tokenizer, losses, config = live(tokenizer_node)
    node, term = config["loss"]["clip"]["term"], losses.terms["clip"]
    state = {f"clip.{key}": value for key, value in term.state_dict().items()} | {"other.x": torch.zeros(1)}
    found = import_alignment({"clip": node}, state, tokenizer, tmp_path)
    assert not found.missing
    for alignment in (found, load_alignment(tmp_path, tokenizer)):
        for key, value in term.state_dict().items():
            assert torch.equal(alignment.terms["clip"].state_dict()[key], value), key

    del state["clip.log_scale"]
    lacking = import_alignment({"clip": node}, state, tokenizer, tmp_path / "lacking")
    assert set(lacking.missing) == {"clip"} and "log_scale" in lacking.missing["clip"] and not lacking.terms
    assert not (tmp_path / "lacking").exists()
    assert save_alignment(WeightedLosses.from_config({"l1": config["loss"]["l1"]}, tokenizer), config, tmp_path) is None


def test_only_terms_with_something_to_keep(tokenizer_node, tmp_path) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer")
    found = import_alignment({"l1": {"_target_": "imtok.losses.pixel.L1"}}, {}, tokenizer, tmp_path)
    assert "alignment.l1._target_=imtok.losses.pixel.L1: no term with something to keep" in found.missing["l1"]
    tower = {"_target_": "imtok.losses.teachers.text_tower.TextTower", **TOWER}
    assert "no term with something to keep" in import_alignment({"t": tower}, {}, tokenizer, tmp_path).missing["t"]
    node = config_of(tokenizer_node)["loss"]["clip"]["term"] | {"reads": "codes.nowhere"}
    with pytest.raises(UserError, match=r"^alignment\.clip.*nowhere"):
        import_alignment({"clip": node}, {}, tokenizer, tmp_path)


def test_weights_that_do_not_fit_are_refused(tokenizer_node, tmp_path) -> None:
    tokenizer, losses, config = live(tokenizer_node)
    assert load_alignment(tmp_path, tokenizer).terms == {}
    out = save_alignment(losses, config, tmp_path)
    assert out == tmp_path / "alignment"
    file = out / "config.json"
    facts = json.loads(file.read_text())
    facts["terms"]["clip"]["tower"]["width"] = 16
    file.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_alignment(tmp_path, tokenizer)


@pytest.mark.parametrize("facts", [None, "not json", "[1]", "{}", '{"format": "somebody else\'s"}'])
def test_only_our_own_files_are_removed(tokenizer_node, tmp_path, facts: str | None) -> None:
    out = tmp_path / "alignment"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"theirs")
    if facts is not None:
        (out / "config.json").write_text(facts)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    remove_alignment(tmp_path)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    if facts is None:
        _, losses, config = live(tokenizer_node)
        save_alignment(losses, config, tmp_path)
        (out / "notes.txt").write_text("mine")
        remove_alignment(tmp_path)
        assert [file.name for file in out.iterdir()] == ["notes.txt"]
        remove_alignment(tmp_path)
