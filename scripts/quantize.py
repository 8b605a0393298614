"""Make a discrete tokenizer of a continuous one (kl, identity), without training: TokenBridge's method."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import Arguments, add_device, add_model, find_device, positive
from ..common.errors import UserError
from ..common.output_folder import add_overwrite, check_folder

if TYPE_CHECKING:
    from torch import Tensor

    from ..tokenizers.tokenizer import Tokenizer

EXAMPLES = (
    "imtok quantize --model runs/kl/STAMP/tokenizer --out kl_6bit/ --bits 6 --images photos/",
    "imtok quantize --model DIR --out DIR_8bit --bits 8 --per-channel --generated",
)
SCALAR = "imtok.tokenizers.quantizers.gaussian_scalar.GaussianScalar"


def image_batches(tokenizer: "Tokenizer", options: Any) -> "Iterator[Tensor]":
    """Images in [-1, 1] on the tokenizer's device, --limit of them, centre-cropped to its size."""
    import torch

    from imtok.common.pixels import to_model_range

    size = tokenizer.image_size
    if options.generated:
        from imtok.data.generated import GeneratedImages

        pictures = GeneratedImages(image_size=max(size), count=options.limit, val_count=1, cache=False)
        source = pictures.split_sources().train
        read = [source.read(i)[:, : size[0], : size[1]] for i in range(options.limit)]
        for start in range(0, len(read), options.batch_size):
            yield to_model_range(torch.stack(read[start : start + options.batch_size]).to(tokenizer.device))
        return

    from .encode import Pictures, batches, list_inputs

    if size[0] != size[1]:
        raise UserError(f"--images={options.images}: images are cropped square, the tokenizer takes {size}")
    _, files = list_inputs([options.images])
    used = 0
    for batch in batches(Pictures(files[: options.limit], size, "centre"), 0, options.batch_size, 0):
        good = [image for image, _ in batch if image is not None]
        used += len(good)
        if good:
            yield to_model_range(torch.stack(good).to(tokenizer.device))
    if not used:
        raise UserError(f"--images={options.images}: none of the {len(files)} files could be read")


def make_discrete(tokenizer: "Tokenizer", *, trusted: str = "", **settings: Any) -> "Tokenizer":
    """The same encoder and decoder around a scalar quantizer that is not fitted yet."""
    from imtok.common.build import build, trusted_parts

    old = tokenizer.config["quantizer"]
    node = {**tokenizer.config, "quantizer": {"_target_": SCALAR, "continuous": dict(old), **settings}}
    discrete: Tokenizer = build(node, key="tokenizer", trusted=trusted_parts(trusted))  # of the loaded config
    state = {  # the bottleneck moves one level down, everything else stays where it is
        f"quantizer.continuous.{k.removeprefix('quantizer.')}" if k.startswith("quantizer.") else k: v
        for k, v in tokenizer.state_dict().items()
    }
    missing, unexpected = discrete.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) == {"quantizer.mean", "quantizer.spread"}, (missing, unexpected)
    return discrete.to(tokenizer.device).eval()


def main(argv: Sequence[str]) -> int:
    parser = Arguments("quantize", str(__doc__), examples=EXAMPLES)
    add_model(parser, "an exported continuous tokenizer, or a hub id")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the discrete tokenizer goes")
    parser.add_argument(
        "--bits", type=positive, default=6, metavar="N", help="of each channel (default 6, as published)"
    )
    parser.add_argument(
        "--per-channel", action="store_true", help="fit mean and spread of each channel, not one spread"
    )
    parser.add_argument(
        "--range", type=float, default=5.0, metavar="X", help="spreads that the values reach (default 5)"
    )
    parser.add_argument("--std-range", type=float, default=3.0, metavar="X", help="of the normal's values (default 3)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--images", metavar="DIR", help="a folder of images (any depth) whose latents are fitted")
    where.add_argument("--generated", action="store_true", help="fit on generated images instead")
    parser.add_argument("--limit", type=positive, default=1024, metavar="N", help="images to fit on (default 1024)")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N")
    add_overwrite(parser)
    add_device(parser)
    options = parser.parse_args(argv)
    check_folder(options.out, overwrite=options.overwrite)

    import torch

    from imtok.eval.probes.alignment import remove_alignment
    from imtok.tokenizers.hub import read_config, save_pretrained
    from imtok.tokenizers.quantizers.gaussian_scalar import GaussianScalar
    from imtok.tokenizers.quantizers.identity import ContinuousBottleneck

    from .shared.models import load_model

    tokenizer, model = load_model(options.model, find_device(options.device), trusted=options.trust)
    if not isinstance(tokenizer.quantizer, ContinuousBottleneck):
        raise UserError(
            f"--model={options.model}: its quantizer, {type(tokenizer.quantizer).__name__}, is discrete already; "
            "give a tokenizer trained with tokenizer/quantizer=kl or identity"
        )
    settings = {"bits": options.bits, "per_channel": options.per_channel}
    settings |= {"range": options.range, "std_range": options.std_range}
    discrete = make_discrete(tokenizer, trusted=options.trust, **settings)
    assert isinstance(discrete.quantizer, GaussianScalar)
    scalar: Any = discrete.quantizer
    with torch.no_grad():
        scalar.fit(discrete.encoder(images)["main"].x_BND for images in image_batches(tokenizer, options))
        first = next(image_batches(tokenizer, options))
        apart = (tokenizer.reconstruct(first) - discrete.reconstruct(first)).square().mean(dim=(1, 2, 3))
        outside = ((scalar.latent(discrete.encoder(first)["main"].x_BND) - scalar.mean) / scalar.spread).abs()
    beyond = float((outside > options.range).float().mean())
    psnr = float((10 * (4 / apart.clamp(min=1e-12)).log10()).mean())

    facts = dict(read_config(Path(model["model"])).get("training", {}))
    facts["quantized_after_training"] = {"bits": options.bits, "images": options.limit, "from": model["model_sha256"]}
    remove_alignment(options.out)
    save_pretrained(discrete, options.out, facts=facts)
    print(
        f"{scalar.code_dim} channels x {options.bits} bits per token, {discrete.bits_per_image:g} bits per image; "
        f"spread {float(scalar.spread.mean()):.4g}, {beyond:.2%} beyond the range"
    )
    print(f"its images against the continuous tokenizer's: PSNR {psnr:.2f} dB over {len(first)} images")
    print(f"written: {options.out}")
    return 0
