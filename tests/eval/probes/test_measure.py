"""Every number against its definition, from codes and texts that are computed here."""

import inspect
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from walls import COLOURS, PROBES, batches, config_of, live

from imtok.common.build import build
from imtok.eval.probes import knn, linear_probe
from imtok.eval.probes.alignment import Alignment
from imtok.eval.probes.measure import MeaningData, measure_meaning
from imtok.eval.probes.pooled_codes import BEFORE, QUANTIZED, pooled_codes
from imtok.losses.teachers.registry import NamedTeachers
from imtok.losses.total import WeightedLosses

CPU = torch.device("cpu")


def measured(tokenizer, data: MeaningData, probes=PROBES) -> list[dict]:
    return measure_meaning(tokenizer.eval(), data, probes=probes, device=CPU).numbers


def joined(tokenizer, some: list[dict]) -> dict[str, torch.Tensor]:
    """Mean codes on both sides of the quantizer, without pooled_codes."""
    with torch.no_grad():
        latents = [tokenizer.encoder(b["image"]) for b in some]
        return {
            "before": torch.cat([x["main"].x_BND.mean(dim=1) for x in latents]),
            "after": torch.cat([tokenizer.quantizer(x).codes["main"].x_BND.mean(dim=1) for x in latents]),
        }


def nearest(queries: torch.Tensor, fitted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    cosines = F.cosine_similarity(queries[:, None], fitted[None], dim=-1)
    found = []
    for row in cosines:
        votes = torch.zeros(3)
        for i in row.argsort(descending=True)[:20]:
            votes[labels[i]] += float(torch.exp(row[i] / 0.07))
        found.append(int(votes.argmax()))
    return torch.tensor(found)


def test_knn_and_chance_are_those_of_the_codes_on_either_side(tokenizer_node) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer").eval()
    generator = torch.Generator().manual_seed(5)
    fit, held_out = batches(60), batches(30)
    for batch in fit + held_out:  # labels that colours do not tell, unevenly often, some unknown
        batch["image"] = batch["image"] * torch.rand(6, 1, 1, 1, generator=generator)
        batch["label"] = torch.multinomial(torch.tensor([0.2, 0.4, 0.2, 0.2]), 6, True, generator=generator)
        batch["label"][batch["label"] == 3] = -1
    labels, truth = (torch.cat([b["label"] for b in some]) for some in (fit, held_out))
    numbers = {n["through_quantizer"]: n for n in measured(tokenizer, MeaningData(fit=fit, held_out=held_out), ["knn"])}
    shares = []
    for side, through in (("before", False), ("after", True)):
        codes, fitted = joined(tokenizer, held_out)[side], joined(tokenizer, fit)[side]
        found = nearest(codes[truth >= 0], fitted[labels >= 0], labels[labels >= 0])
        shares.append(float((found == truth[truth >= 0]).double().mean()))
        assert numbers[through]["value"] == pytest.approx(shares[-1])
        assert numbers[through]["n"] == int((truth >= 0).sum()) < 30
        assert numbers[through]["fitted_on"] == int((labels >= 0).sum()) < 60
        most_common = labels[labels >= 0].mode().values
        assert numbers[through]["chance"] == pytest.approx(float((truth[truth >= 0] == most_common).double().mean()))
        assert numbers[through]["chance"] != pytest.approx(1 / 3, abs=0.05)
        assert "20 neighbours" in numbers[through]["protocol"] and numbers[through]["stream"] == "main"
    assert shares[0] != shares[1], "these images tell the two sides apart"


def test_zero_shot_and_retrieval_are_those_of_the_towers_vectors(tokenizer_node) -> None:
    tokenizer, losses, _ = live(tokenizer_node)
    losses.train()
    term = losses.terms["clip"]
    modes = []
    term.tower.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    held_out = batches(30)
    for number, batch in zip(count(), held_out, strict=False):
        batch["label"][number] = -1
        batch["caption"] = [None if i == number else f"{c} {number * 6 + i}" for i, c in enumerate(batch["caption"])]
    prompts = {"red": ["a red wall", "red"], "green": ["a green wall", "leaves"], "blue": ["a blue wall", "sky"]}
    data = MeaningData(
        fit=None,
        held_out=held_out,
        class_names=list(COLOURS),
        prompts=prompts.__getitem__,
        alignment=Alignment.of_losses(losses),
    )
    found = {n["name"]: n for n in measured(tokenizer, data)}
    assert modes and not any(modes) and all(t.training for t in losses.terms.values())

    with torch.no_grad():
        vectors = term.projector(joined(tokenizer, held_out)["after"])
        texts = {name: F.normalize(term.texts(said), dim=1).mean(dim=0) for name, said in prompts.items()}
        labels = torch.cat([b["label"] for b in held_out])
        said = F.cosine_similarity(vectors[:, None], torch.stack(list(texts.values()))[None], dim=-1).argmax(dim=1)
        captions = [c for b in held_out for c in b["caption"]]
        rows = [i for i, c in enumerate(captions) if c is not None]
        texts_ND = term.texts([captions[i] for i in rows])
    right = float((said == labels)[labels >= 0].double().mean())
    zero_shot = found["Zero-shot accuracy"]
    assert 0 < right < 1 and right != 0.5 and zero_shot["value"] == pytest.approx(right)
    assert (zero_shot["n"], zero_shot["chance"]) == (25, pytest.approx(1 / 3))
    assert zero_shot["protocol"].startswith("3 classes by the mean of 2 prompts")
    cosine = F.cosine_similarity(vectors[rows][:, None], texts_ND[None], dim=-1)
    own = torch.arange(25)
    for name, dim in (("image to text", 1), ("text to image", 0)):
        number = found[f"Retrieval R@1, {name}"]
        assert number["value"] == pytest.approx(float((cosine.argmax(dim=dim) == own).double().mean()))
        assert (number["n"], number["chance"]) == (25, pytest.approx(1 / 25))
        assert "one in 25" in number["protocol"] and number["random_weights"] is False


def test_more_captions_than_the_tower_reads_at_once(tokenizer_node) -> None:
    tokenizer, losses, _ = live(tokenizer_node)
    term, seen = losses.terms["clip"], []
    term.tower.register_forward_pre_hook(lambda _, given: seen.append(list(given[0])))
    [held_out] = batches(300, 300)
    held_out["caption"] = [f"{i}" for i in range(300)]
    data = MeaningData(fit=None, held_out=[held_out], alignment=Alignment({"clip": term}))
    assert {n["n"] for n in measured(tokenizer, data, ["retrieval"])} == {300}
    assert [text for some in seen for text in some] == held_out["caption"] and len(seen) == 2


def test_reasons_where_texts_or_teachers_are_missing(tokenizer_node) -> None:
    tokenizer, losses, _ = live(tokenizer_node)

    def reasons(held_out: list[dict], alignment: Alignment, **data) -> dict[str, str]:
        given = MeaningData(fit=None, held_out=held_out, alignment=alignment, **data)
        return measure_meaning(tokenizer.eval(), given, probes=PROBES, device=CPU).not_computed

    clip = Alignment({"clip": losses.terms["clip"]}, missing={"cosine": "its file is elsewhere"})
    assert reasons(batches(6), clip)["teacher_cosine"] == "its file is elsewhere"
    assert reasons(batches(6), clip)["zero_shot"] == "these images have no labels with names"
    unlabelled = [b | {"label": torch.full((6,), -1)} for b in batches(6)]
    assert "zero_shot" in reasons(unlabelled, clip, class_names=list(COLOURS))
    bare = [{k: v for k, v in b.items() if k in ("image", "key")} for b in batches(6)]
    assert reasons(bare, clip)["retrieval"] == "these images have no captions"
    assert reasons(bare, clip)["knn"] == "these images have no labels"
    one = [b | {"caption": ["one"] + [None] * 5} for b in batches(6)]
    assert reasons(one, clip)["retrieval"] == "these images have no captions"
    two = [b | {"caption": ["one", "two"] + [None] * 4} for b in batches(6)]
    assert "retrieval" not in reasons(two, clip)


def test_four_fitting_images_a_class_are_enough(tokenizer_node) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer").eval()
    held_out = batches(6)
    enough = measure_meaning(tokenizer, MeaningData(fit=batches(12), held_out=held_out), probes=["knn"], device=CPU)
    assert enough.numbers and not enough.not_computed
    short = batches(12)
    short[0]["label"][0] = -1
    fewer = measure_meaning(tokenizer, MeaningData(fit=short, held_out=held_out), probes=["knn"], device=CPU)
    assert fewer.not_computed == {"knn": "11 labelled training images are too few for 3 classes"}
    named = MeaningData(fit=batches(12), held_out=held_out, class_names=["a", "b", "c", "d"])
    assert "for 4 classes" in measure_meaning(tokenizer, named, probes=["knn"], device=CPU).not_computed["knn"]


def test_a_teacher_from_a_file_is_marked_by_its_digits(tokenizer_node, tmp_path) -> None:
    config = config_of(tokenizer_node)
    torch.save(build(config["teacher"]["small"], key="teacher").network.state_dict(), tmp_path / "teacher.pt")
    config["teacher"]["small"] = config["teacher"]["small"] | {"weights": str(tmp_path / "teacher.pt")}
    tokenizer = build(tokenizer_node, key="tokenizer").eval()
    losses = WeightedLosses.from_config(
        {"cosine": config["loss"]["cosine"]}, tokenizer, NamedTeachers(config["teacher"])
    )
    held_out = batches(12)
    data = MeaningData(fit=None, held_out=held_out, alignment=Alignment.of_losses(losses))
    [number] = measured(tokenizer, data, ["teacher_cosine"])
    assert len(number["name"]) == len("Cosine to small[12345678]") and not number["random_weights"]
    with torch.no_grad():
        cosines = [losses.terms["cosine"].cosine_to_teacher(b["image"], tokenizer(b["image"])) for b in held_out]
    assert number["value"] == pytest.approx(float(torch.cat(cosines).mean()), abs=1e-6)
    assert "loss.cosine compares, tokens" in number["protocol"]


def test_batches_in_bytes_without_images_or_labels(tokenizer_node) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer").eval()
    [batch] = batches(6)
    as_bytes = ((batch["image"] + 1) * 127.5).round().to(torch.uint8)
    given = [{"image": None, "key": []}, {"image": as_bytes, "key": batch["key"]}]
    found = pooled_codes(tokenizer, given, device=CPU)
    assert found.labels == [-1] * 6 and found.captions == [None] * 6
    expected = joined(tokenizer, [{"image": as_bytes.float() / 127.5 - 1}])
    torch.testing.assert_close(found.codes[BEFORE, "main"], expected["before"])
    torch.testing.assert_close(found.codes[QUANTIZED, "main"], expected["after"])
    assert list(found.codes) == [(QUANTIZED, "main"), (BEFORE, "main")]


def test_shares_of_processes_become_one_table_in_the_order_of_keys(tokenizer_node, monkeypatch) -> None:
    tokenizer, losses, _ = live(tokenizer_node)
    tokenizer.eval()
    terms = Alignment.of_losses(losses).terms
    whole = pooled_codes(tokenizer, batches(30), device=CPU, terms=terms)
    idle = pooled_codes(tokenizer, [], device=CPU, terms=terms)
    halves = [pooled_codes(tokenizer, batches(30)[i::2], device=CPU, terms=terms) for i in range(2)]
    monkeypatch.setattr("imtok.eval.probes.pooled_codes.gather_objects", lambda own: [idle, halves[1], own])
    joint = pooled_codes(tokenizer, batches(30)[0::2], device=CPU, terms=terms)
    assert (joint.keys, joint.labels, joint.captions) == (whole.keys, whole.labels, whole.captions)
    for given, expected in zip(joint.tables, whole.tables, strict=True):
        assert given.keys() == expected.keys() and expected
        for key in expected:
            torch.testing.assert_close(given[key], expected[key])


def test_published_settings_of_the_probes() -> None:
    """k and temperature of Wu et al., arXiv 1805.01978, as DINO evaluates; three strengths of the linear probe's L2."""
    defaults = {name: p.default for name, p in inspect.signature(knn.knn_predict).parameters.items()}
    assert (defaults["neighbours"], defaults["temperature"]) == (20, 0.07)
    assert linear_probe.DECAYS == (1e-4, 1e-2, 1.0)


@pytest.mark.parametrize("few", [True, False])
def test_the_strength_that_is_best_on_every_fifth_image(few: bool) -> None:
    """Another optimizer on the same objective: Newton's method in the variables that LBFGS has."""
    generator = torch.Generator().manual_seed(8)
    n = 4 if few else 60
    labels = torch.arange(n) % 2
    features = torch.randn(n, 12, generator=generator).double() + 0.9 * labels[:, None] * (torch.arange(12) < 2)
    held = torch.tensor([i % 5 == 4 for i in range(n)])

    def solved(x: torch.Tensor, y: torch.Tensor, decay: float) -> torch.Tensor:
        """Weight of class 1 against class 0 and bias; the optimum is antisymmetric in the two classes."""
        x = torch.cat([x, torch.ones(len(x), 1).double()], dim=1)
        strength = decay / 2 * torch.tensor([1.0] * 12 + [0.0]).double()  # w_1 = -w_0 = half of the difference
        w = torch.zeros(13).double()
        for _ in range(100):
            p = torch.sigmoid(x @ w)
            gradient = x.T @ (p - y) / len(x) + strength * w
            hessian = (x * (p * (1 - p))[:, None]).T @ x / len(x) + torch.diag(strength) + 1e-12 * torch.eye(13)
            w = w - torch.linalg.solve(hessian, gradient)
        return w

    scores = {}
    for decay in linear_probe.DECAYS:
        if few:
            scores[decay] = 0.0
            continue
        mean, deviation = features[~held].mean(0), features[~held].std(0, unbiased=False)
        w = solved((features[~held] - mean) / deviation, labels[~held].double(), decay)
        scores[decay] = float(
            (((features[held] - mean) / deviation @ w[:-1] + w[-1] > 0) == labels[held]).double().mean()
        )
    best = max(scores, key=lambda decay: (scores[decay], decay))
    probe = linear_probe.fit_linear_probe(features, labels, classes=2)
    assert probe.decay == best and (few or best != max(linear_probe.DECAYS))
    x = (features - features.mean(0)) / features.std(0, unbiased=False)
    expected = solved(x, labels.double(), best)
    torch.testing.assert_close(probe.weight_CD[1] - probe.weight_CD[0], expected[:-1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(probe.bias_C[1] - probe.bias_C[0], expected[-1], atol=1e-4, rtol=1e-3)
