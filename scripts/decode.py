"""Turn tokens back into images: a token store to PNG files named after the images they came from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..common.arguments import Arguments, add_device, add_model, find_device, positive
from ..common.errors import UserError
from ..common.output_folder import DRAFTS, add_overwrite, check_folder
from .shared.models import model_facts, sha256

EXAMPLES = ("imtok decode tokens/ --model runs/quickstart/STAMP/tokenizer --out pictures/",)
RECORD, FORMAT = "decoded.json", "imtok-pictures"  # in --out: which tokens by which model made which files


def picture_names(keys: Sequence[str]) -> list[str]:
    """a/b.jpg to a/b.png; a/b.jpg.png where a/b.* stands for two images. Keys that lead out of --out are refused."""
    for key in keys:
        path = PurePosixPath(key)
        if path.is_absolute() or ".." in path.parts or "\\" in key or not path.name:
            raise UserError(
                f"index.json has the key {key!r}, which leads out of --out; this token store is not imtok's"
            )
    short = [str(PurePosixPath(key).with_suffix(".png")) for key in keys]
    taken: dict[str, int] = {}
    for name in short:
        taken[name.lower()] = taken.get(name.lower(), 0) + 1  # some file systems ignore case
    return [name if taken[name.lower()] == 1 else f"{key}.png" for key, name in zip(keys, short, strict=True)]


def check_layout(store: Any, tokenizer: Any, given: str) -> None:
    """Tokens of another model may have another shape (--force)."""
    from imtok.data.token_store import Packing

    wanted, found = Packing.of(tokenizer.index_layout(store.image_size)).streams, store.packing.streams
    if tokenizer.token_dropout is not None:  # a store of prefixes has narrower rows
        wanted = {name: (min(m, found.get(name, (m, k))[0]), k) for name, (m, k) in wanted.items()}
    if wanted != found:
        raise UserError(f"{given} holds tokens of shape {found}, --model reads {wanted}; --force cannot bridge that")


def read_captions(path: Path) -> dict[str, str]:
    """One JSON object, {key of the token store: caption}."""
    try:
        captions = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--captions={path}: no such file") from None
    except ValueError as error:
        raise UserError(f"--captions={path} is not JSON: {error}") from None
    if not (isinstance(captions, dict) and all(isinstance(text, str) for text in captions.values())):
        raise UserError(f'--captions={path}: expected one JSON object, {{"folder/a.jpg": "a caption", ...}}')
    return captions


def captions_of(keys: Sequence[str], captions: Mapping[str, str], path: Path | None) -> list[str]:
    if path is None:
        raise UserError("--captions is missing: this tokenizer's decoder reads one caption per image; give a JSON file")
    missing = [key for key in keys if key not in captions]
    if missing:
        raise UserError(f"--captions={path}: none for {missing[0]!r}; it needs one for every image of the store")
    return [captions[key] for key in keys]


def what_is_decoded(store: Any, model_sha256: str, captions: Path | None) -> dict[str, Any]:
    """All that the decoded images depend on, except how many are wanted."""
    tokens = hashlib.sha256()
    for name in ("index.json", *(Path(shard["file"]).name for shard in store.index["shards"])):
        if (file := store.folder / name).is_file():  # a missing one is said when it is read
            tokens.update(sha256(file).encode())
    about = {"format": FORMAT, "model_sha256": model_sha256, "tokens_sha256": tokens.hexdigest()}
    return about | {"captions_sha256": None if captions is None else sha256(captions)}


def decoded_before(out: Path, about: Mapping[str, Any]) -> set[str]:
    """The files that an earlier decode of the same tokens made or was about to make."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        same = all(record.get(key) == value for key, value in about.items())
        return set(record["files"]) if same else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def pictures_done(out: Path, about: Mapping[str, Any], wanted: Sequence[str], *, overwrite: bool) -> set[str]:
    """Which of `wanted` an interrupted decode has left to keep; refuses a folder of anything else."""
    before = decoded_before(out, about)
    check_folder(out, overwrite=overwrite, is_own=lambda _: bool(before))
    if overwrite:
        return set()
    there = {name for name in wanted if (out / name).exists()}
    if foreign := sorted(there - before):
        raise UserError(f"--out={out} holds {foreign[0]}, not of this decode; take an empty folder, or --overwrite")
    return there


def write_record(out: Path, about: Mapping[str, Any], wanted: Sequence[str]) -> None:
    from imtok.common.files import write_text

    files = decoded_before(out, about).union(wanted)
    write_text(out / RECORD, json.dumps({**about, "files": sorted(files)}, ensure_ascii=False) + "\n")


def save_picture(pixels: Any, path: Path) -> None:
    """Whole or not at all: what is there counts as done when an interrupted decode goes on."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFTS}{path.name}")
    try:
        Image.fromarray(pixels).save(draft, "PNG")
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def main(argv: Sequence[str]) -> int:
    parser = Arguments("decode", str(__doc__), examples=EXAMPLES)
    parser.add_argument("tokens", type=Path, metavar="TOKENS", help="what `imtok encode` wrote")
    add_model(parser, "the tokenizer/ folder that made the tokens")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the images go")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="images at a time (default 16)")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N images only")
    parser.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="JSON, {key: caption}; for tokenizers whose decoder reads captions",
    )
    add_overwrite(parser)
    parser.add_argument("--force", action="store_true", help="decode tokens that another model made")
    add_device(parser)
    options = parser.parse_args(argv)

    from rich.progress import track

    from imtok.common.pixels import to_uint8
    from imtok.data.token_store import TokenStore
    from imtok.tokenizers.hub import find_folder, from_pretrained, read_config
    from imtok.tokenizers.index_tensors import NoSuchToken

    store = TokenStore(options.tokens)
    names = dict(zip(store.keys, picture_names(store.keys), strict=True))
    captions = read_captions(options.captions) if options.captions is not None else {}
    folder = find_folder(options.model)
    read_config(folder)
    model = model_facts(folder)
    if store.index.get("model_sha256") != model["model_sha256"] and not options.force:
        raise UserError(
            f"{options.tokens} was made by another model ({store.index.get('model')}, sha256 "
            f"{str(store.index.get('model_sha256'))[:12]}; --model has {model['model_sha256'][:12]}); give that one, "
            "or --force"
        )
    total = min(len(store), options.limit or len(store))
    wanted = [names[key] for key in store.keys[:total]]
    about = what_is_decoded(store, model["model_sha256"], options.captions)
    ready = pictures_done(options.out, about, wanted, overwrite=options.overwrite)
    if ready:
        print(f"going on after {len(ready)} of {total} images")
    tokenizer = from_pretrained(folder, device=find_device(options.device), trusted=options.trust)
    if options.captions is not None and tokenizer.conditioner is None:
        raise UserError(f"--captions={options.captions}: this tokenizer's decoder reads no captions; leave it out")
    size = store.image_size
    check_layout(store, tokenizer, str(options.tokens))
    done, recorded = 0, False
    batches = -(-total // options.batch_size)
    for keys, _, indices in track(store.batches(options.batch_size), description="decoding", total=batches):
        if done >= total:
            break
        if {names[key] for key in keys[: total - done]} <= ready:
            done += len(keys)
            continue
        indices = (
            {name: part.to(tokenizer.device) for name, part in indices.items()}
            if isinstance(indices, dict)
            else indices.to(tokenizer.device)
        )
        conditions = None
        if tokenizer.conditioner is not None:
            conditions = tokenizer.conditions_of({"caption": captions_of(keys, captions, options.captions)})
        try:
            made = tokenizer.detokenize(indices, conditions=conditions, image_size=size)
        except NoSuchToken as error:
            raise UserError(f"{options.tokens}: {error}; decode with the model that made the tokens") from error
        if not recorded:  # from here on the folder is ours
            write_record(options.out, about, wanted)
            recorded = True
        pictures = to_uint8(made).permute(0, 2, 3, 1).cpu().numpy()
        for key, picture in list(zip(keys, pictures, strict=True))[: total - done]:
            save_picture(picture, options.out / names[key])
        done += len(keys)
    print(f"{total} images of {size[1]}x{size[0]}: {options.out}")
    return 0
