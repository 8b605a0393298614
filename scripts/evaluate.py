"""Measure a tokenizer under a named protocol: metrics.json, report.md and report.html."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import UserError, errors_as_one_line
from ..configs.compose import apply_tiny, check_top_level, readable_errors, with_home
from ..training.resume import value_of
from .shared.evaluation_folder import asked_for, default_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

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
  device=auto|cpu|cuda      debug=tiny: few images, random weights, to see that everything works

examples:
  imtok evaluate model=runs/quickstart/STAMP/tokenizer data=folder data.root=photos
  imtok evaluate model=owner/name data=imagenet data.root=/data/imagenet require=[rfid]
  imtok evaluate model=DIR data=folder data.root=photos protocol=mini"""


def main(argv: Sequence[str] | None = None) -> int:
    import sys

    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or "-h" in argv or "--help" in argv:
        from .train import names

        print(HELP.format(doc=__doc__, data=names("data"), protocols=names("protocol"), metrics=names("metric")))
        return 0
    with errors_as_one_line():
        return run(argv)


def run(argv: Sequence[str]) -> int:
    from omegaconf import OmegaConf

    argv = with_home(argv)
    out_as_run_dir = value_of("hydra.run.dir", argv)
    argv = [word for word in argv if not word.startswith("hydra.run.dir=")]
    config = composed(argv)
    if OmegaConf.select(config, "debug.sets"):
        apply_tiny(config, argv)
        config.max_images = min(config.max_images or 8, 8)
    check_top_level({k: v for k, v in config.items() if not OmegaConf.is_dict(v)})
    from imtok.tokenizers.hub import find_folder, read_config

    if config.model is None:
        raise UserError("model: nothing says which tokenizer to evaluate; give model=DIR_OR_HUB_ID")
    folder = find_folder(config.model)
    exported = read_config(folder)
    if not any(word.lstrip("+").startswith("data.image_size=") for word in argv):
        config.data.image_size = square_size(exported["image"]["size"])
    run_dir = run_folder(folder)
    split = chosen_split(config, run_dir)

    from imtok.common.arguments import find_device
    from imtok.common.build import build
    from imtok.data.skipped import SkippedImages
    from imtok.eval.evaluate import evaluate
    from imtok.eval.probes.alignment import load_alignment
    from imtok.eval.probes.measure import meaning_of
    from imtok.eval.results import check_required
    from imtok.tokenizers.hub import from_pretrained

    resolved = OmegaConf.to_container(config, resolve=True)
    protocol = build(resolved["protocol"], key="protocol")
    check_required(config.require, protocol)
    data = build_data(resolved["data"])
    if exported["tokenizer"].get("conditioner"):
        data.take_captioned("the model's tokenizer.conditioner", used=[split])
    loader = data.val_loader(config.max_images) if split == "val" else data.all_loader(config.max_images)
    device = find_device(config.device)
    tokenizer = from_pretrained(folder, device=device)
    training = {k: v for k, v in exported.get("training", {}).items() if isinstance(v, str | int | float | bool)}
    facts = data.describe()
    out = asked_for(config.out, out_as_run_dir)
    if out is None and run_dir is not None:
        out = default_folder(run_dir=run_dir, config=resolved, facts=facts, split=split)
    out = out or Path("evaluation") / model_name(folder)
    print(f"{model_name(folder)}: {len(loader.dataset):,} images on {device}, report in {out}", flush=True)
    results = evaluate(
        tokenizer,
        loader,
        protocol=protocol,
        out_dir=out,
        data_facts=facts | {"evaluated": split},
        run_dir=run_dir,
        device=device,
        model_facts={"name": model_name(folder), "folder": str(folder)} | training,
        require=tuple(config.require),
        meaning=meaning_of(data, loader, protocol, fit=split == "val", alignment=load_alignment(folder, tokenizer)),
        curve_images=config.curve_images,
    )
    print_summary(results, out)
    skipped = SkippedImages(folder=None if out == run_dir else out, fresh=True)  # a run's own list is training's
    skipped.collect(results["skipped_images"])
    skipped.report()
    return 0


def composed(argv: Sequence[str]) -> "DictConfig":
    """The YAML with the words of the command line laid over it."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    wrong = [word for word in argv if "=" not in word and not word.startswith("~")]
    if wrong:
        raise UserError(f"{wrong[0]!r}: `imtok evaluate` takes key=value, such as model=DIR (see --help)")
    GlobalHydra.instance().clear()
    with (
        readable_errors("evaluate", argv),
        initialize_config_module("imtok.configs", version_base="1.3", job_name="evaluate"),
    ):
        return compose("evaluate", overrides=list(argv))


def build_data(node: dict[str, Any]) -> Any:
    """The data module; keys that only feed interpolations are the YAML's own and no arguments."""
    from imtok.common.build import build, locate

    aliases = getattr(locate(node["_target_"], key="data"), "yaml_aliases", ())
    return build({k: v for k, v in node.items() if k not in aliases}, key="data")


def square_size(size: Sequence[int]) -> int:
    height, width = size
    if height != width:
        raise UserError(
            f"the model was trained at {height}x{width}; data.image_size=N gives a square size to evaluate at"
        )
    return int(height)


def run_folder(folder: Path) -> Path | None:
    """The training run that the model lies in, if it does."""
    parent = folder.resolve().parent
    return parent if any((parent / name).is_file() for name in ("config.yaml", "metrics.csv")) else None


def model_name(folder: Path) -> str:
    """`quickstart/2026-11-21_02-31` for runs/quickstart/STAMP/tokenizer; the folder's own name elsewhere."""
    folder = folder.resolve()
    if folder.name == "tokenizer":
        return "/".join(folder.parent.parts[-2:])
    if "snapshots" in folder.parts:  # the hub's cache: .../models--owner--name/snapshots/HASH
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name


def chosen_split(config: "DictConfig", run_dir: Path | None) -> str:
    """Resolves `auto`; where the run recorded which images it held out of the same folder, that split is used."""
    root = config.data.get("root")
    recorded = run_dir / "split.json" if run_dir else None
    if root is not None and recorded is not None and recorded.is_file():
        same = Path(json.loads(recorded.read_text())["root"]).resolve() == Path(root).expanduser().resolve()
        if same and config.split != "all":
            if "split_file" in config.data and config.data.split_file is None:
                config.data.split_file = str(recorded)
            return "val"
    if config.split != "auto":
        return config.split
    return "all" if "split_file" in config.data else "val"  # a plain folder, which nobody trained on


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
