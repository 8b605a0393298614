"""Turn images into tokens: a folder of images (any depth) to packed shards, or to what AR trainers read."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import Arguments, add_device, add_model, find_device, positive
from ..common.errors import UserError
from ..common.output_folder import check_folder

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLES = (
    "imtok encode photos/ --model runs/quickstart/STAMP/tokenizer --out tokens/",
    'imtok encode photos/ --model DIR --out tokens/ --quality "psnr>=24"',
    "imtok encode imagenet/train --model DIR --out codes/ --format llamagen --device cuda --batch-size 64",
)


def list_inputs(paths: Sequence[str]) -> tuple[Path, list[Path]]:
    """(root that keys are relative to, files in order)."""
    from imtok.data.image_file import list_images

    files: list[Path] = []
    for text in paths:
        path = Path(text).expanduser().resolve()
        if path.is_dir():
            found = list_images(path)
            if not found:
                raise UserError(f"{text}: no image files in this folder, at any depth")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{text}: no such file or folder; give a folder of images, or image files")
    folders = [Path(p).expanduser().resolve() for p in paths]
    root = Path(os.path.commonpath([p if p.is_dir() else p.parent for p in folders]))
    return root, list(dict.fromkeys(files))


def class_labels(keys: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names of the top folders, and each key's; no names and all -1 where some image lies in none."""
    tops = [key.split("/", 1)[0] if "/" in key else None for key in keys]
    if None in tops:
        return [], [-1] * len(keys)
    classes = sorted({top for top in tops if top is not None})
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[str(top)] for top in tops]


class Pictures:
    """A map dataset: number to (uint8 image, None) or (None, reason)."""

    def __init__(self, files: Sequence[Path], size: tuple[int, int], crop: str) -> None:
        self.files, self.size, self.crop = files, size, crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> "tuple[Tensor | None, str | None]":
        from imtok.data.image_file import UnreadableImage, read_image
        from imtok.data.transforms import adm_centre_crop

        try:
            image = read_image(self.files[number])
        except UnreadableImage as error:
            return None, error.reason
        if self.crop == "centre":
            return adm_centre_crop(image, self.size[0]).contiguous(), None
        if tuple(image.shape[-2:]) != self.size:
            height, width = image.shape[-2:]
            return None, f"{width}x{height} pixels, but --crop=none takes {self.size[1]}x{self.size[0]} only"
        return image, None


def batches(
    pictures: Pictures, start: int, size: int, workers: int
) -> "Iterator[list[tuple[Tensor | None, str | None]]]":
    from torch.utils.data import DataLoader, Subset

    from imtok.data.worker import begin_worker

    dataset: Any = pictures  # a Dataset in all but its base, which would import torch for --help
    rest = Subset(dataset, range(start, len(pictures)))
    return iter(DataLoader(rest, batch_size=size, num_workers=workers, collate_fn=list, worker_init_fn=begin_worker))


def tokens_of(tokenizer: Any, images: "Tensor", *, num_tokens: int | None, quality: Any | None) -> dict[str, Any]:
    """What TokenWriter.add takes of one batch: indices, and with a quality the length of each image's tokens."""
    if quality is not None:
        from imtok.tokenizers.quality import shortest_prefixes

        found = shortest_prefixes(tokenizer, images, quality)
        total = found.quantized.codes["main"].x_BND.shape[1]
        indices = tokenizer.variable().padded(found.quantized.indices["main"], total)
        return {"indices": indices, "lengths": found.lengths, "missed": sum(found.missed)}
    return {"indices": tokenizer.tokenize(images, num_tokens=num_tokens) if num_tokens else tokenizer.tokenize(images)}


def encode(
    tokenizer: Any,
    files: Sequence[Path],
    keys: Sequence[str],
    labels: Sequence[int],
    writer: Any,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Everything not yet in the store; returns the index."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from imtok.common.pixels import to_model_range

    start = writer.inputs_done
    pictures = Pictures(files, options["size"], options["crop"])
    bar = Progress(
        TextColumn("encoding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with bar:
        task = bar.add_task("", total=len(files), completed=start, rate="")
        for batch in batches(pictures, start, options["batch_size"], options["workers"]):
            at = range(start, start + len(batch))
            good = [i for i, (image, _) in zip(at, batch, strict=True) if image is not None]
            skipped = [f"{keys[i]}: {why}" for i, (image, why) in zip(at, batch, strict=True) if image is None]
            made: dict[str, Any] = {"indices": None}
            if good:
                images = torch.stack([image for image, _ in batch if image is not None]).to(tokenizer.device)
                made = tokens_of(tokenizer, to_model_range(images), **options["length"])
            writer.add(**made, keys=[keys[i] for i in good], labels=[labels[i] for i in good], skipped=skipped)
            start += len(batch)
            speed = bar.tasks[0].speed
            bar.update(task, completed=start, rate=f"{speed:.1f} images/s" if speed else "")
    return writer.finish()


def said_lengths(index: dict[str, Any]) -> str:
    """How many tokens the images have, and how many of them miss the quality."""
    most = sum(m for m, _ in index["streams"].values())
    lengths = index.get("lengths")
    if not lengths:
        return f"{most} tokens each"
    text = f"{min(lengths)} to {max(lengths)} tokens, {sum(lengths) / len(lengths):.1f} on average"
    return text + f" ({index['missed']} miss {index['quality']} and keep all {most})" * bool(index["missed"])


def main(argv: Sequence[str]) -> int:
    parser = Arguments("encode", str(__doc__), examples=EXAMPLES)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="a folder (any depth) or image files")
    add_model(parser, "an exported tokenizer/ folder, or a hub id")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the tokens go")
    parser.add_argument(
        "--format",
        choices=("imtok", "llamagen", "jsonl"),
        default="imtok",
        help="imtok: packed shards and index.json (default). The others write these too: llamagen: codes/i.npy and "
        "labels/i.npy; jsonl: one line per image (RAR)",
    )
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="images at a time (default 16)")
    parser.add_argument(
        "--image-size",
        type=positive,
        nargs="+",
        metavar="N",
        help="side, or height and width (default: what the tokenizer was trained at)",
    )
    parser.add_argument(
        "--crop",
        choices=("centre", "none"),
        default="centre",
        help="centre: short side resized, then the middle square (ADM); none: only images of exactly the image size",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--num-tokens", type=positive, metavar="K", help="the first K tokens, of a tokenizer of variable length"
    )
    length.add_argument(
        "--quality",
        metavar="BOUND",
        help='as few tokens as an image needs: "psnr>=24", "mse<=0.01" or "l1<=0.05" (errors of the full range)',
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N images only")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read images (default 0)")
    parser.add_argument("--shard-size", type=positive, default=4096, metavar="N", help="images a shard (default 4096)")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="begin anew where --out holds tokens, or write into a folder of other files; without it an interrupted "
        "encode goes on, and a folder of other files is refused",
    )
    add_device(parser)
    options = parser.parse_args(argv)

    from imtok.data.token_store import TokenWriter

    check_folder(options.out, overwrite=options.overwrite, is_own=TokenWriter.began)
    root, files = list_inputs(options.images)
    files = files[: options.limit]
    keys = [path.relative_to(root).as_posix() for path in files]

    from imtok.tokenizers.quality import Quality

    from .shared.models import load_model

    quality = None if options.quality is None else Quality.parse(options.quality)
    tokenizer, model = load_model(options.model, find_device(options.device), trusted=options.trust)
    size = tuple(options.image_size or tokenizer.image_size)
    size = size * 2 if len(size) == 1 else size
    if len(size) != 2:
        raise UserError(f"--image-size={' '.join(map(str, size))}: one number, or height and width")
    if options.crop == "centre" and size[0] != size[1]:
        raise UserError(f"--image-size={size[0]} {size[1]}: a centre crop is square; use --crop none, or one number")
    try:
        layout = tokenizer.index_layout(size)
    except UserError as error:  # the YAML's name of what is a flag here
        raise UserError(str(error).replace("data.image_size", "--image-size")) from None
    if not layout:
        raise UserError(
            f"--model={options.model}: this tokenizer has no indices (continuous), so there is nothing to store"
        )
    if options.num_tokens or quality:
        tokenizer.variable()
        total = sum(segment.length for segment in layout)
        if options.num_tokens and options.num_tokens > total:
            raise UserError(f"--num-tokens={options.num_tokens}: from 1 to {total} for this tokenizer")
    classes, labels = class_labels(keys)
    about = {
        **model,
        "image_size": list(size),
        "crop": options.crop,
        "inputs": {"count": len(keys), "sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest()},
        "classes": classes,
        "codebook_size": tokenizer.codebook_size,
        "stochastic": bool(tokenizer.quantizer.stochastic),
        "num_tokens": options.num_tokens,
        "quality": None if quality is None else str(quality),
    }
    about["codebook_size"] = list(k) if isinstance(k := about["codebook_size"], tuple) else k
    if options.overwrite and options.out.is_dir():
        TokenWriter.clear(options.out)
    writer = TokenWriter(
        options.out, layout=layout, about=about, shard_size=options.shard_size, num_tokens=options.num_tokens
    )
    if writer.inputs_done:
        print(f"going on after {writer.inputs_done} of {len(files)} images")
    settings = {"size": size, "crop": options.crop, "batch_size": options.batch_size, "workers": options.workers}
    settings["length"] = {"num_tokens": options.num_tokens, "quality": quality}
    index = encode(tokenizer, files, keys, labels, writer, settings)

    print(f"{index['count']} images, {said_lengths(index)}: {options.out}/index.json")
    if index["skipped"]:
        print(f"skipped {len(index['skipped'])} (all named in index.json), the first: {index['skipped'][0]}")
    if options.format != "imtok":
        from .shared.token_formats import write_format

        print(f"for AR trainers: {write_format(options.out, options.format)}")
    if not index["count"]:
        raise UserError(f"none of the {len(files)} files could be read; the reasons are in {options.out}/index.json")
    return 0
