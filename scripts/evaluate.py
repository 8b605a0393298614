"""Measure a tokenizer under a named protocol: metrics.json, report.md and report.html."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.arguments import flags_as_settings
from ..common.errors import UserError
from .shared.evaluation_folder import asked_for, check_out, default_folder, model_name, run_folder
from .shared.models import model_facts

FLAGS = {"--model": "model", "--device": "device", "--trust": "trusted", "--trusted": "trusted"}

HELP = """\
usage: imtok evaluate model=DIR_OR_HUB_ID [data=NAME] [key=value ...]

{doc}

  model=DIR_OR_HUB_ID       an exported tokenizer/ folder, a run folder that holds one, or owner/name on the hub
  data=NAME                 {data}; data.root=DIR for data=folder
  data.image_size=256       default: what the model was trained at; data.eval_batch_size=32
  split=auto|val|all        val: held-out images, all: every image; auto: the model's own held-out images where its run
                            recorded a split of the same folder, else all of a folder and val of a data set
  max_images=1000           so many, evenly spread
  protocol=NAME             {protocols}
  protocol.metrics=[psnr]   any of {metrics};
                            +protocol.settings.NAME.KEY=VALUE changes a setting of one
  protocol.inception=FILE   the 2015 Inception (rFID, Inception Score) from a file; also protocol.lpips_vgg, lpips_alex
  weights=random            of all metric networks: numbers are marked and never called rFID
  protocol.probes=none      no probes of meaning; or some of [linear_probe, knn, zero_shot, retrieval, teacher_cosine]
  protocol.probe_images=N   training images that the first two are fitted on (2048); labels make them possible
  curve_images=64           of a tokenizer of variable length, so many are measured at 1, 2, 4 ... all tokens, and as
                            JPEG, WebP and AVIF files of as many bytes; null: all, 0: none
  require=[rfid,lpips_vgg]  exit with an error if one of these could not be computed (after the report)
  out=DIR                   or hydra.run.dir=DIR. Default: the model's run folder for what the run itself measured,
                            RUN/evaluations/DATA-SPLIT for anything else, evaluation/MODEL for a model without a run
  overwrite=true            write even where that folder holds other files, or the report of something else
  device=auto|cpu|cuda      debug=tiny: few images, random weights, to see that everything works
  trusted=[mypkg]           packages besides imtok whose classes the model may name; their code runs
  --config-dir DIR          YAML files of your own, such as DIR/data/mine.yaml for data=mine

examples:
  imtok evaluate model=runs/quickstart/STAMP/tokenizer data=folder data.root=photos
  imtok evaluate model=owner/name data=imagenet data.root=/data/imagenet require=[rfid]
  imtok evaluate model=DIR data=folder data.root=photos protocol=mini"""


def main(argv: Sequence[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        from .shared.names import names

        print(HELP.format(doc=__doc__, data=names("data"), protocols=names("protocol"), metrics=names("metric")))
        return 0
    from ..configs.compose import command_line, compose_config
    from ..tokenizers.hub import find_folder, from_pretrained, read_config
    from ..training.resume import value_of

    words = command_line(flags_as_settings(argv, FLAGS), command="evaluate")
    config = compose_config("evaluate", words)
    if config["model"] is None:
        raise UserError("model: nothing says which tokenizer to evaluate; give model=DIR_OR_HUB_ID")
    folder = find_folder(config["model"])
    exported, run_dir = read_config(folder), run_folder(folder)
    split, of_model = chosen_split(config, run_dir)
    if value_of("data.image_size", words) is None:
        of_model.append(f"data.image_size={square_size(exported['image']['size'])}")
    config = compose_config("evaluate", [*words, *of_model])

    from ..common.arguments import find_device
    from ..common.build import build
    from ..data.skipped import SkippedImages
    from ..eval.evaluate import evaluate
    from ..eval.probes.alignment import load_alignment
    from ..eval.probes.measure import meaning_of
    from ..eval.results import check_required

    protocol = build(config["protocol"], key="protocol")
    check_required(config["require"], protocol)
    data = build(config["data"], key="data")
    if exported["tokenizer"].get("conditioner"):
        data.take_captioned("the model's tokenizer.conditioner", used=[split])
    training = {k: v for k, v in exported.get("training", {}).items() if isinstance(v, str | int | float | bool)}
    facts = data.describe()
    out = asked_for(config["out"], value_of("hydra.run.dir", words))
    by_default = out is None
    if out is None and run_dir is not None:
        out = default_folder(run_dir=run_dir, model=folder, config=config, facts=facts, split=split)
    out = out or Path("evaluation") / model_name(folder)
    facts |= {"evaluated": split}
    weights = model_facts(folder)["model_sha256"]
    about = {"weights_sha256": weights, "folder": folder, "data": facts, "protocol": protocol.label}
    check_out(out, about, run_dir=run_dir, by_default=by_default, overwrite=config["overwrite"])
    loader = data.val_loader(config["max_images"]) if split == "val" else data.all_loader(config["max_images"])
    device = find_device(config["device"])
    tokenizer = from_pretrained(folder, device=device, trusted=config["trusted"])
    print(f"{model_name(folder)}: {len(loader.dataset):,} images on {device}, report in {out}", flush=True)
    results = evaluate(
        tokenizer,
        loader,
        protocol=protocol,
        out_dir=out,
        data_facts=facts,
        run_dir=run_dir,
        device=device,
        model_facts={"name": model_name(folder), "folder": str(folder), "weights_sha256": weights} | training,
        require=tuple(config["require"]),
        meaning=meaning_of(data, loader, protocol, fit=split == "val", alignment=load_alignment(folder, tokenizer)),
        curve_images=config["curve_images"],
    )
    print_summary(results, out)
    skipped = SkippedImages(folder=None if out == run_dir else out, fresh=True)  # a run's own list is training's
    skipped.collect(results["skipped_images"])
    skipped.report()
    return 0


def square_size(size: Sequence[int]) -> int:
    height, width = size
    if height != width:
        raise UserError(
            f"the model was trained at {height}x{width}; data.image_size=N gives a square size to evaluate at"
        )
    return int(height)


def chosen_split(config: Mapping[str, Any], run_dir: Path | None) -> tuple[str, list[str]]:
    """(val or all, overrides); where the run recorded which images of the same folder it held out, those are used."""
    from ..configs.compose import quoted

    data = config["data"]
    recorded = run_dir / "split.json" if run_dir else None
    if data.get("root") is not None and recorded is not None and recorded.is_file() and config["split"] != "all":
        same = Path(json.loads(recorded.read_text())["root"]).resolve() == Path(data["root"]).expanduser().resolve()
        if same:
            takes_it = "split_file" in data and data["split_file"] is None
            return "val", [f"data.split_file={quoted(recorded)}"] if takes_it else []
    if config["split"] != "auto":
        return config["split"], []
    return "all" if "split_file" in data else "val", []  # a plain folder, which nobody trained on


def print_summary(results: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..eval.report.rows import metric_rows

    label, n = results["protocol"]["label"], results["num_images"]
    table = Table(box=None, pad_edge=False, title=f"{label}, {n:,} images", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("")
    for row in metric_rows(results):
        table.add_row(row.name.replace("[", r"\["), row.value, "[yellow]random weights[/]" if row.random else row.note)
    console = Console()
    console.print(table)
    for name, reason in results["not_computed"].items():
        console.print(f"not computed: {name}: {reason}", markup=False, highlight=False)
    console.print(f"report: {out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
