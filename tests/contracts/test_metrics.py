"""What every metric promises, checked for every YAML in configs/metric: a new one needs no new test."""

import inspect
import json
import pickle
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from fake_tokenizer import FakeTokenizer, batches_of, pictures
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from imtok.common.errors import UserError
from imtok.common.types import IndexSegment
from imtok.eval.evaluate import evaluate
from imtok.eval.metrics import inception
from imtok.eval.metrics.base import Measured, Metric, base_of
from imtok.eval.metrics.choices import DEFAULT_METRICS
from imtok.eval.metrics.chosen import ChosenMetrics, collection
from imtok.eval.metrics.registry import build_metric, metric_node, names_in
from imtok.eval.protocol import Protocol

NAMES = names_in("metric")
LAYOUT = (IndexSegment("main", 6, (8, 4)),)
ABOUT = Measured(image_size=(32, 32))


@pytest.fixture(scope="module", autouse=True)
def _small_inception() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "SIDE", 75)  # the least it takes, and a sixteenth of the work
        yield


def size_of(*names: str) -> int:
    return 176 if "ms_ssim" in names else 32


def protocol_of(*names: str, **fields: Any) -> Protocol:
    """Small and without files."""
    extractor = "inception-2015" if "inception_score" in names else "randconv-64"
    random = dict.fromkeys(("inception", "lpips_vgg", "lpips_alex", "weights"), "random")
    return Protocol(metrics=names, **({"extractor": extractor, "small": True} | random | fields))


def made(name: str) -> Metric:
    metric = build_metric(name, protocol_of(name))
    assert metric.start((size_of(name),) * 2, LAYOUT) is None
    return metric


def data_of(*names: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    reference = pictures(8, size_of(*names))
    noise = torch.randint(-25, 26, reference.shape, generator=generator)
    indices = torch.stack([torch.randint(0, n, (8, 6), generator=generator) for n in (8, 4)], dim=-1)
    reconstruction = (reference + noise).clamp(0, 255).to(torch.uint8)
    keys = [f"{i:03d}.png" for i in range(8)]
    return {"pair": (reference, reconstruction), "indices": indices, "keys": keys}


@pytest.fixture
def given(name: str) -> dict[str, Any]:
    return data_of(name)


def fed(metric: Metric | torchmetrics.MetricCollection, given: dict[str, Any], *parts: slice) -> Any:
    for part in parts or (slice(0, 8),):
        pair = [x[part] for x in given["pair"]]
        named = {"indices": {"main": given["indices"][part]}, "keys": given["keys"][part]}
        named |= {"unrounded": pair[1] / 127.5 - 1}
        if isinstance(metric, Metric):
            named = metric._filter_kwargs(**named)
        metric.update(*pair, **named)
    return metric


def synced(shards: list[Metric]) -> Metric:
    """The first process's metric after torchmetrics' own gather, with the others standing in for the network."""
    first, order = shards[0], [list(s._reductions) for s in shards]
    assert all(names == order[0] for names in order)
    for metric in shards:  # what torchmetrics gathers is the tensors that its _sync_dist has prepared
        for name in metric._row_types:
            if not getattr(metric, name):
                setattr(metric, name, [metric._no_rows(name)])
            setattr(metric, name, [dim_zero_cat(getattr(metric, name))])
    places = {id(tensor): [_state(s, name) for s in shards] for name in order[0] for tensor in [_state(first, name)]}
    first.sync(dist_sync_fn=lambda tensor, group=None: places[id(tensor)], distributed_available=lambda: True)
    first._to_sync = False
    return first


def _state(metric: Metric, name: str) -> Tensor:
    found = getattr(metric, name)
    return found[0] if isinstance(found, list) else found


def close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b) for a, b in zip(one, other, strict=True))
    return one == pytest.approx(other, rel=1e-5, abs=1e-9) if isinstance(one, float) else one == other


def test_there_are_some() -> None:
    assert set(DEFAULT_METRICS) < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_update_compute_reset(name: str, given: dict[str, Any]) -> None:
    metric = fed(made(name), given)
    value = metric.compute()
    for number in value.values() if isinstance(value, dict) else [value]:
        assert number.shape == () and bool(torch.isfinite(number))
    first = json.loads(json.dumps(metric.result(), allow_nan=False))
    metric.reset()
    assert close(json.loads(json.dumps(fed(metric, given).result())), first)
    assert "warnings" not in first and isinstance(metric.warnings(metric.entries(ABOUT)), list)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [3, 8])  # the other process has five images, or none
def test_two_processes_are_one(name: str, cut: int, given: dict[str, Any]) -> None:
    whole = fed(made(name), given).result()
    left = fed(made(name), given, slice(0, 2), slice(2, cut))
    right = fed(made(name), given, slice(cut, 8)) if cut < 8 else made(name)
    assert close(synced([left, right]).result(), whole)
    left, right = (fed(made(name), given, part) for part in (slice(0, 3), slice(3, 8)))
    left.merge_state(right)
    assert close(left.result(), whole)


@pytest.mark.parametrize("name", NAMES)
def test_it_declares_what_reports_need(name: str, given: dict[str, Any]) -> None:
    metric = fed(made(name), given)
    entries = metric.entries(ABOUT)
    allowed = {*metric.quantities, *metric.result_keys}
    assert {base_of(key) for key in entries} <= allowed and any(base_of(k) in metric.quantities for k in entries)
    better = {quantity.better for quantity in metric.quantities.values()}
    assert better <= {"higher", "lower", ""} and all(q.title for q in metric.quantities.values())
    if metric.higher_is_better is not None:
        assert better == {"higher" if metric.higher_is_better else "lower"}
    assert metric.main_key.partition("[")[0] in allowed and metric.group
    rows = list(metric.rows(entries))
    assert rows and all(row.name and row.value for row in rows)
    assert not list(metric.rows({}))
    random = metric.needs is not None and metric.network.module.weights_are_random
    assert any(row.random for row in rows) == random, "a number of random weights is marked"
    if metric.on_curve:
        assert {base_of(key) for key in metric.curve_numbers()} <= set(metric.quantities)
    assert all(len(line) == 2 for line in metric.describe(protocol_of(name)))


@pytest.mark.parametrize("name", NAMES)
def test_its_arguments_are_the_protocols_or_in_the_hash(name: str) -> None:
    cls, protocol = type(made(name)), protocol_of(name)
    arguments = {p.name for p in inspect.signature(cls.__init__).parameters.values() if p.kind == p.KEYWORD_ONLY}
    from_elsewhere = {"layout", "extractor"}  # values that no YAML has
    assert arguments - from_elsewhere <= {*cls.protocol_fields, *cls.own_fields}
    assert all(hasattr(protocol, field) for field in cls.protocol_fields.values())
    with_all = protocol_of(name, extractor="randconv-64").hash
    assert (with_all == protocol_of("psnr", extractor="randconv-64").hash) == (not cls.own_fields)


@pytest.mark.parametrize("name", NAMES)
def test_no_network_in_its_state(name: str, given: dict[str, Any]) -> None:
    metric = fed(made(name), given)
    parent = torch.nn.ModuleDict({"inside": metric})
    assert not parent.state_dict() and not list(parent.parameters()) and not list(parent.buffers())
    back = pickle.loads(pickle.dumps(metric))
    assert close(back.result(), metric.result())
    assert len(pickle.dumps(metric)) < 2**24, "networks do not travel with it"


@pytest.mark.parametrize("name", NAMES)
def test_the_network_moves_with_it(name: str) -> None:
    metric = made(name)
    if metric.needs is None:
        pytest.skip("needs none")
    here = metric.network
    assert metric.to("cpu").network is here and made(name).network is here, "built once, shared"
    metric._network = here
    metric.to("meta")
    assert metric._network is None, "looked up again where the states are now"


def test_all_in_one_collection() -> None:
    """Identical images first: torchmetrics then takes metrics of equal states for one, unless their states differ."""
    metrics = {name: made(name) for name in NAMES if name != "ms_ssim"}
    assert made("ms_ssim")._defaults.keys() != metrics["ssim"]._defaults.keys()
    given = data_of(*metrics)
    foreign = torchmetrics.MeanSquaredError()
    both = torchmetrics.MetricCollection({**metrics, "mse": foreign})
    exact = given | {"pair": (given["pair"][0], given["pair"][0])}
    fed(both, exact, slice(0, 4))
    fed(both, given, slice(4, 8))
    found = both.compute()
    assert found["mse"] > 0
    for name in metrics:
        alone = fed(fed(made(name), exact, slice(0, 4)), given, slice(4, 8)).compute()
        expected = alone if isinstance(alone, dict) else {name: alone}
        for key, value in expected.items():
            assert float(found[key]) == pytest.approx(float(value), rel=1e-6), key
    assert set(collection(metrics)) == set(metrics)


def test_one_pass_of_a_network_for_all_that_need_it() -> None:
    given = data_of()
    chosen = ChosenMetrics(protocol_of("rfid", "kid", "precision_recall"), device=torch.device("cpu"))
    chosen.start((32, 32), LAYOUT)
    seen = []
    [network] = {metric.network for metric in chosen.present.values()}
    network.module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    fed(chosen.collection, given, slice(0, 4), slice(4, 8))
    assert seen == [4] * 4, "reference and reconstruction of two batches"


def test_a_buffer_that_is_filled_anew_is_looked_at_anew() -> None:
    given = data_of()
    buffer, metric = given["pair"][0][:4].clone(), made("precision_recall")
    before = metric.network(buffer)[0].clone()
    buffer.copy_(given["pair"][0][4:])
    assert not torch.equal(metric.network(buffer)[0], before)


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_says_what_it_is(name: str) -> None:
    node = metric_node(name, protocol_of())
    assert node["_target_"].startswith("imtok.eval.metrics.")
    module = __import__("imtok.eval.metrics", fromlist=["x"])
    assert getattr(module, node["_target_"].rpartition(".")[2]).__name__ == node["_target_"].rpartition(".")[2]


def test_two_files_make_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable_node: dict) -> None:
    """A class and a YAML of one's own, outside imtok: in metrics.json, both reports, the curve and protocol.metrics."""
    (tmp_path / "brightness.py").write_text(
        textwrap.dedent(
            '''
            import torch
            from imtok.eval.metrics import Metric, Quantity

            class Brightness(Metric):
                """Mean change of brightness, in levels."""

                higher_is_better = False
                quantities = {"brightness": Quantity("Brightness <change>", "levels", "lower", 3)}
                own_fields = ("power",)

                def __init__(self, *, power: float = 1.0, **options):
                    super().__init__(**options)
                    self.power = power
                    self.add_state("change", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
                    self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

                def update(self, reference, reconstruction):
                    a, b = (x.double().mean((1, 2, 3)) for x in self.pixels(reference, reconstruction))
                    self.change = self.change + ((a - b).abs() ** self.power).sum()
                    self.count = self.count + len(a)

                def measure(self):
                    return {"brightness": float(self.change / self.count)}
            '''
        )
    )
    (tmp_path / "metric").mkdir()
    (tmp_path / "metric" / "brightness.yaml").write_text("_target_: brightness.Brightness\npower: 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from imtok.common.build import build

    tokenizer = build(variable_node, key="tokenizer").eval()
    monkeypatch.setattr("imtok.eval.metrics.registry.folders_of_yaml", [tmp_path])  # as --config-dir sets it
    protocol = Protocol(metrics=("psnr", "brightness"))
    batches = batches_of(pictures(5))
    facts = {"name": "folder"}
    results = evaluate(tokenizer, batches, protocol=protocol, out_dir=tmp_path, data_facts=facts, progress=False)
    assert protocol.hash != Protocol(metrics=("psnr",)).hash == Protocol().hash
    assert protocol.hash != Protocol(metrics=protocol.metrics, settings={"brightness": {"power": 1.0}}).hash
    assert results["brightness"] > 0 and results["protocol"]["metrics"] == ["psnr", "brightness"]
    points = results["curve"]["points"]
    assert points[-1]["brightness"] == pytest.approx(results["brightness"], rel=1e-5)
    markdown, html = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert f"| Brightness <change> | {results['brightness']:.3f} levels | lower |" in markdown
    assert "Brightness &lt;change&gt;" in html and "Brightness <change>" not in html
    assert f"{points[0]['brightness']:.4f}" in html.split("Quality against tokens")[1]
    del sys.modules["brightness"]


def test_the_new_ones_need_no_other_file() -> None:
    """Each name stands in its own class and YAML, and nowhere else in imtok."""
    root = Path(evaluate.__code__.co_filename).parents[1]
    for name in ("ms_ssim", "dists", "kid", "precision_recall", "teacher_fd"):
        class_file, yaml_file = f"eval/metrics/{name}.py", f"configs/metric/{name}.yaml"
        own = metric_node(name, protocol_of())["_target_"].rpartition(".")[2]
        naming = {
            str(file.relative_to(root))
            for folder in ("eval", "configs", "scripts", "training")
            for file in (root / folder).rglob("*.*")
            if file.suffix in (".py", ".yaml", ".html") and (own in (text := file.read_text()) or name in text)
        }
        assert naming == {class_file, yaml_file}


def test_a_mistake_is_one_line() -> None:
    with pytest.raises(UserError, match=r"protocol\.metrics: no metric 'kids'; did you mean 'kid'\?"):
        Protocol(metrics=("kids",))
    with pytest.raises(
        UserError, match=r"protocol\.settings\.kid\.subset=3: Kid has no such setting; did you mean 'subsets'"
    ):
        Protocol(metrics=("kid",), settings={"kid": {"subset": 3}})
    with pytest.raises(UserError, match=r"protocol\.settings\.kid\.subset_size=1: at least 2"):
        Protocol(metrics=("kid",), settings={"kid": {"subset_size": 1}})
    with pytest.raises(UserError, match=r"protocol\.settings\.kid: .*protocol\.metrics"):
        Protocol(metrics=("psnr",), settings={"kid": {}})
    with pytest.raises(UserError, match=r"protocol\.settings\.mine\._target_=.*Metric"):
        Protocol(metrics=("mine",), settings={"mine": {"_target_": "torchmetrics.MeanSquaredError"}})


def test_all_asked_for_at_once(tmp_path: Path) -> None:
    names = tuple(n for n in NAMES if n not in ("inception_score", "lpips_vgg", "lpips_alex"))
    size = size_of(*names)
    with pytest.raises(UserError, match="require=dists: not computed: its network has random weights"):
        evaluate(
            FakeTokenizer(image_size=size),
            batches_of(pictures(4, size)),
            protocol=protocol_of(*names, settings={"kid": {"subset_size": 1000}}),
            out_dir=tmp_path,
            data_facts={"name": "folder"},
            progress=False,
            require=["ms_ssim", "dists"],
        )
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert results["not_computed"] == {"kid": "4 images are fewer than its subset_size of 1,000"}
    assert {"ms_ssim", "dists[random]", "precision[randconv-64]", "fd[dinov2_b][random]@4"} <= set(results)
