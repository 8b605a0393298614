"""Read a checkpoint that others published into an imtok tokenizer folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import Arguments, positive
from ..common.errors import UserError
from ..common.output_folder import add_overwrite, check_folder

if TYPE_CHECKING:
    from ..tokenizers.released.base import ReleasedFamily, State
    from ..tokenizers.tokenizer import Tokenizer

EXAMPLES = (
    "imtok import-weights --list",
    "imtok import-weights vq_ds16_c2i.pt --system llamagen_vq16 --out llamagen_vq16/",
    "imtok import-weights last.ckpt --system vqgan --config model.yaml --out vqgan/",
)


def read_constructor(path: Path) -> dict[str, Any]:
    """The authors' own settings (YAML or JSON): the mapping itself, or what stands under model.params / constructor."""
    import yaml

    try:
        content = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"--config={path}: no such file") from None
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config={path} cannot be read: {error}") from None
    for keys in (("model", "params"), ("constructor",), ("model",)):
        inner = content
        for key in keys:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            return inner
    if not isinstance(content, dict):
        raise UserError(f"--config={path}: expected settings by name, found a {type(content).__name__}")
    return content


def beside_in(out: Path, family: "ReleasedFamily", state: "State", tokenizer: "Tokenizer") -> str:
    """Writes alignment/ where the family's text tower can be; what to say about tensors that are no tokenizer's."""
    from imtok.eval.probes.alignment import FOLDER, import_alignment

    nodes, names = family.alignment(state)
    renamed = {ours: state[theirs] for theirs, ours in names.items()}
    found = import_alignment(nodes, renamed, tokenizer, out) if nodes else None
    if found is not None and found.terms:
        left_out = [name for name in state if name not in names]
        said = f"{len(renamed)} tensors of the text tower in {out / FOLDER}, for `imtok evaluate`"
    else:
        left_out, said = list(state), ""
    if left_out:
        shown = ", ".join(left_out[:3]) + (" ..." if len(left_out) > 3 else "")
        reason = "; ".join(found.missing.values()) if found is not None else ""
        why = reason or "of the published model, but no tokenizer's, and no text tower that imtok can use"
        said += ("\n" if said else "") + f"left out, {why}: {len(left_out)} ({shown})"
    return said


def main(argv: Sequence[str]) -> int:
    parser = Arguments("import-weights", str(__doc__), examples=EXAMPLES)
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help=".safetensors, .pt, .pth, .ckpt or .bin; no code in it is run"
    )
    parser.add_argument("--system", metavar="NAME", help="whose weights they are; --list names the systems")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the tokenizer folder to write")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the authors' YAML or JSON, for what tensor shapes do not show"
    )
    parser.add_argument(
        "--image-size",
        type=positive,
        nargs="+",
        default=[256],
        metavar="N",
        help="side, or height and width (default 256)",
    )
    parser.add_argument("--list", action="store_true", help="print the systems and stop")
    add_overwrite(parser)
    options = parser.parse_args(argv)

    from imtok.common.weights import read
    from imtok.tokenizers import released

    if options.list:
        for family in released.families():
            about = (family.__doc__ or "").strip().partition("\n")[0]
            for system in family.systems:
                print(f"{system:<24} {about}")
        return 0
    for flag, value in (("FILE", options.file), ("--system", options.system), ("--out", options.out)):
        if not value:
            raise UserError(
                f"{flag} is missing: imtok import-weights FILE --system NAME --out DIR (--list names the systems)"
            )
    check_folder(options.out, overwrite=options.overwrite)
    if len(options.image_size) > 2:
        raise UserError(f"--image-size={' '.join(map(str, options.image_size))}: one number, or height and width")
    family = released.find(options.system)
    constructor = read_constructor(options.config) if options.config else {}
    state = read(options.file)
    size = tuple(options.image_size) if len(options.image_size) == 2 else tuple(options.image_size * 2)
    tokenizer, report = family.import_state(state, image_size=size, constructor=constructor)

    from imtok.eval.probes.alignment import remove_alignment
    from imtok.tokenizers.hub import save_pretrained

    from .shared.models import sha256

    facts = {"imported_from": Path(options.file).name, "system": options.system, "sha256": sha256(Path(options.file))}
    remove_alignment(options.out)
    save_pretrained(tokenizer, options.out, facts=facts)
    parameters = sum(p.numel() for p in tokenizer.parameters())
    print(f"{len(report.used)} of {len(state)} tensors used, {parameters / 1e6:.2f} M parameters: {options.out}")
    if report.beside:
        print(beside_in(options.out, family, {name: state[name] for name in report.beside}, tokenizer))
    if report.ignored:
        shown = ", ".join(report.ignored[:3]) + (" ..." if len(report.ignored) > 3 else "")
        print(f"left out, as no tokenizer has them: {len(report.ignored)} ({shown})")
    return 0
