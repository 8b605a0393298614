"""Write the inference folder of a run or a training checkpoint, when training did not get to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import Arguments, add_trust
from ..common.errors import UserError
from ..common.output_folder import add_overwrite, check_folder

if TYPE_CHECKING:
    from ..tokenizers.tokenizer import Tokenizer

EXAMPLES = (
    "imtok export runs/quickstart/STAMP --out tokenizer/",
    "imtok export runs/quickstart/STAMP/checkpoints/update_00002000.ckpt --out tokenizer/ --weights raw --check",
)


def find_checkpoint(given: Path) -> Path:
    """A .ckpt as it is; of a run folder its last one."""
    from imtok.training.checkpoint_paths import all_numbered, is_checkpoint

    if is_checkpoint(given):
        return given
    for folder in (given / "checkpoints", given):
        last = folder / "last.ckpt"
        if is_checkpoint(last):
            return last
        if numbered := all_numbered(folder):
            return numbered[-1]
    if not given.exists():
        raise UserError(f"{given}: no such file or folder; give a run folder or a .ckpt file")
    raise UserError(f"{given}: no checkpoints/last.ckpt in this folder; was trainer.checkpoint_every reached?")


def build_from(state: dict[str, Any], weights: str, source: Path, trusted: str = "") -> tuple["Tokenizer", str]:
    """The tokenizer of a training checkpoint, and which weights it got."""
    from imtok.common.build import build, trusted_parts
    from imtok.tokenizers.hub import check_state

    tokenizer = build(state["config"]["tokenizer"], key="tokenizer", trusted=trusted_parts(trusted))
    raw, ema = state["tokenizer"], state.get("ema")
    if weights == "ema" and ema is None:
        raise UserError(f"--weights=ema: {source} has no running mean (trainer.ema was null); use --weights raw")
    if weights == "raw":
        ema = None
    chosen = raw if ema is None else {**raw, **ema["parameters"], **ema["buffers"]}
    check_state(tokenizer.state_dict(), chosen, source=str(source))
    tokenizer.load_state_dict(chosen)
    return tokenizer.eval(), "raw" if ema is None else "ema"


def check_export(tokenizer: "Tokenizer", folder: Path, trusted: str = "") -> None:
    """Load the folder back and hold it against the tokenizer in memory, on one noise image."""
    import torch

    from imtok.tokenizers.hub import from_pretrained

    loaded = from_pretrained(folder, trusted=trusted)
    height, width = tokenizer.image_size
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(0)
    ours = tokenizer.quantize(images).indices
    torch.manual_seed(0)
    theirs = loaded.quantize(images).indices
    if any(not torch.equal(ours[name], theirs[name]) for name in ours):
        raise UserError(f"--check: {folder} gives other indices than the checkpoint it came from; do not use it")


def main(argv: Sequence[str]) -> int:
    parser = Arguments("export", str(__doc__), examples=EXAMPLES)
    parser.add_argument("source", type=Path, metavar="RUN_OR_CKPT", help="a run folder, or a file of its checkpoints/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the tokenizer folder to write")
    parser.add_argument(
        "--weights",
        choices=("auto", "ema", "raw"),
        default="auto",
        help="ema: running mean; raw: as trained; auto (default): ema where there is one",
    )
    parser.add_argument("--check", action="store_true", help="load the result and compare its indices")
    add_trust(parser)
    add_overwrite(parser)
    options = parser.parse_args(argv)
    check_folder(options.out, overwrite=options.overwrite)

    from imtok.eval.probes.alignment import export_alignment, remove_alignment
    from imtok.tokenizers.hub import save_pretrained
    from imtok.training import checkpoint

    source = find_checkpoint(options.source.expanduser())
    state = checkpoint.read(source, named="")
    tokenizer, weights = build_from(state, options.weights, source, options.trust)
    facts = {"experiment": state["config"].get("name"), "update": state["update"], "weights": weights}
    remove_alignment(options.out)
    save_pretrained(tokenizer, options.out, facts=facts)
    for name, reason in export_alignment(state, tokenizer, options.out).missing.items():
        print(f"imtok: note: alignment/ without loss.{name}: {reason}")
    if options.check:
        check_export(tokenizer, options.out, options.trust)
    checked = ", checked" if options.check else ""
    print(f"update {state['update']}, {weights} weights{checked}: {options.out}")
    return 0
