"""List every experiment: paper, tokens, codebook, parameters, published rFID, what is proven."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..common.arguments import Arguments
from ..common.console import codebook_words
from ..common.errors import UserError, did_you_mean, one_line
from ..common.files import cache_folder, write_text
from ..parity.proven import proven


def experiments_folder() -> Path:
    from .. import configs

    return Path(configs.__file__).parent / "experiment"


def experiment_files() -> list[Path]:
    """Also those of several stages, a folder each; shared/ holds what experiments have in common, and none itself."""
    folder = experiments_folder()
    return sorted(f for f in folder.rglob("*.yaml") if f.relative_to(folder).parts[0] != "shared")


def name_of(file: Path) -> str:
    return file.relative_to(experiments_folder()).with_suffix("").as_posix()


def fingerprint() -> str:
    """Of everything that sizes depend on: all YAML, and the code of the parts."""
    root = experiments_folder().parents[1]
    digest = hashlib.sha256()
    files = [*root.glob("configs/**/*.yaml"), *root.glob("tokenizers/**/*.py"), *root.glob("decoders/**/*.py")]
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def measure(name: str) -> dict[str, Any]:
    """Sizes of an experiment's tokenizer, built without data; {"reason": ...} where that fails."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from imtok.common.build import build
    from imtok.common.weights import left_out
    from imtok.configs.compose import compose_config

    try:
        config = compose_config("train", [f"experiment={name}"])
        with FakeTensorMode(), left_out():
            tokenizer = build(config["tokenizer"], key="tokenizer")
        size = tokenizer.codebook_size
        return {
            "tokens": tokenizer.num_tokens,
            "codebook": list(size) if isinstance(size, tuple) else size,
            "bits": tokenizer.bits_per_image,
            "parameters": sum(p.numel() for p in tokenizer.parameters()),
            "image_size": list(tokenizer.image_size),
        }
    except Exception as error:  # one broken experiment must not hide the others
        return {"reason": one_line(error)}


def header(path: Path) -> dict[str, Any]:
    """The `recipe:` block of an experiment file."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe = content.get("recipe") if isinstance(content, Mapping) else None
        return dict(recipe) if isinstance(recipe, Mapping) else {}
    except (yaml.YAMLError, OSError) as error:
        return {"reason": one_line(error)}


def recipes() -> list[dict[str, Any]]:
    """A row an experiment; sizes come from the cache while no YAML and no part has changed."""
    key, path = fingerprint(), cache_folder() / "recipes.json"
    try:
        cached = json.loads(path.read_text())
        known: dict[str, Any] = cached["sizes"] if cached["key"] == key else {}
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    rows, fresh = [], False
    for file in experiment_files():
        name = name_of(file)
        if name not in known:
            known[name] = measure(name)
            fresh = True
        recipe = header(file)
        rows.append(
            {
                "name": name,
                **{k: recipe.get(k) for k in ("paper", "published_rfid", "published_note", "complete")},
                **{k: recipe[k] for k in ("missing", "reason") if k in recipe},
                "proven": proven(name),
                **known[name],
            }
        )
    if fresh:
        good = {name: sizes for name, sizes in known.items() if "reason" not in sizes}
        with suppress(OSError):  # without a cache folder it is slower, nothing else
            write_text(path, json.dumps({"key": key, "sizes": good}))
    return rows


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in (
        "experiment",
        "paper",
        "image",
        "tokens",
        "codebook",
        "bits",
        "parameters",
        "rFID",
        "complete",
        "proven",
    ):
        left = title in ("experiment", "paper", "complete", "proven")
        table.add_column(title, justify="left" if left else "right")
    for row in rows:
        if "reason" in row:
            sizes = ["", "?", "?", "?", "?"]
        else:
            codebook = codebook_words(row["codebook"])
            height, width = row["image_size"]
            image = f"{height}" if height == width else f"{height}x{width}"
            sizes = [image, f"{row['tokens']}", codebook, f"{row['bits']:g}", f"{row['parameters'] / 1e6:.2f} M"]
        rfid = "" if row["published_rfid"] is None else f"{row['published_rfid']:g}"
        complete = {True: "yes", False: "no", None: "?"}.get(row["complete"], str(row["complete"]))
        table.add_row(row["name"], row["paper"] or "", *sizes, rfid, complete, ", ".join(row["proven"]) or "nothing")
    console = Console()
    console.width = max(console.width, 165) if not console.is_terminal else console.width
    console.print(table)
    for row in rows:
        if "reason" in row:
            console.print(f"{row['name']}: sizes unknown: {row['reason']}", markup=False)
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["complete"] is False:
            reasons.setdefault(row.get("missing") or "its YAML does not say", []).append(row["name"])
    if reasons:
        console.print("\nNot complete:")
        for reason, names in reasons.items():
            console.print(f"  {', '.join(names)}: {reason}", markup=False, highlight=False)
    print(
        "\nrFID as published, under each paper's own protocol. Proven: what stored outputs of the published code show "
        "(`imtok parity`).\n`imtok recipes NAME` prints its settings beside the reference's, `imtok plan "
        "experiment=NAME` says what training needs."
    )


def composed(name: str) -> dict[str, Any]:
    from imtok.configs.compose import compose_config

    from .shared.recipe_settings import misnamed

    known = [name_of(file) for file in experiment_files()]
    if name not in known:
        raise UserError(f"{name}: no such experiment; {did_you_mean(name, known)}")
    config = compose_config("train", [f"experiment={name}"])
    if wrong := misnamed(config):
        raise UserError(f"{name}: recipe speaks of {', '.join(wrong)}, and this experiment has no such key")
    return config


def print_settings(names: Sequence[str], *, as_json: bool) -> None:
    """Of some experiments, each with the reference's file and whether it equals that."""
    from rich.console import Console
    from rich.table import Table

    from .shared.recipe_settings import settings_of

    found = {name: settings_of(composed(name)) for name in names}
    if as_json:
        print(
            json.dumps({name: [asdict(setting) for setting in settings] for name, settings in found.items()}, indent=2)
        )
        return
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, 165) if not console.is_terminal else console.width
    for name, settings in found.items():
        table = Table(box=None, pad_edge=False)
        for title in (name, "value", "from", ""):
            table.add_column(title, overflow="fold")
        for setting in settings:
            table.add_row(setting.key, setting.value, setting.source, setting.verdict)
        console.print(table)


def main(argv: Sequence[str]) -> int:
    parser = Arguments(
        "recipes", str(__doc__), examples=("imtok recipes", "imtok recipes llamagen_vq16", "imtok recipes --json")
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="an experiment: its settings beside the reference's")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the settings of all as a page: docs/recipes.md")
    options = parser.parse_args(argv)
    if options.write:
        from .shared.recipe_page import written_page

        configs = {name: composed(name) for name in map(name_of, experiment_files())}
        write_text(options.write, written_page(configs, {name: proven(name) for name in configs}))
        return 0
    if options.names:
        print_settings(options.names, as_json=options.json)
        return 0
    rows = recipes()
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)
    return 0
