"""Measure speed here: whole update against bare modules, evaluation, JPEG loading, quantizers."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..common.arguments import Arguments, positive, take_out, whole_number
from ..common.errors import UserError, did_you_mean

HELP = """\
usage: imtok benchmark train experiment=NAME [rounds=5] [batch=2] [precision=auto] [threads=1] [compare=auto]
                             [processes=1] [key=...]
       imtok benchmark evaluate [experiment=NAME] [rounds=3] [images=16] [threads=1] [key=...]
       imtok benchmark loader [--data-root DIR] [--images 400] [--size 256] [--rounds 3] [--threads 1]
       imtok benchmark quantizers [CASE ...] [--tokens N] [--device cuda] [--dtype bf16] [--compile] ...

{doc}
All arms of a benchmark take turns in one process, so that a busy machine slows them alike; medians are printed.
  train     the whole update as it runs in training (losses, GAN, optimizer, EMA, logging) against forward and backward
            of the bare encoder, quantizer, decoder, LPIPS and discriminator; compare=true adds the bare update in
            fp32 against bf16 with channels_last (auto: where bf16 has matrix units); processes=2 measures instead what
            averaging gradients over so many processes adds, and counts what is sent (batch is that of each process)
  evaluate  `imtok evaluate` on images in memory against the sum of the forwards that it needs
  loader    training crops of a JPEG folder (made here when none is given), images per core-second
  quantizers  a step of imtok's quantizers against vector-quantize-pytorch's, and the memory that each takes;
            `imtok benchmark quantizers --help` says more

examples:
  imtok benchmark train experiment=llamagen_vq16
  imtok benchmark loader --data-root photos
  imtok benchmark quantizers lfq18 vq16k"""

KINDS = ("train", "evaluate", "loader", "quantizers")


def loader_arguments(argv: Sequence[str]) -> Any:
    parser = Arguments("benchmark loader", "Training crops of a JPEG folder: images per core-second.")
    parser.add_argument("--data-root", metavar="DIR", help="a folder of images (default: JPEGs made here)")
    parser.add_argument("--images", type=positive, default=400, metavar="N", help="default 400")
    parser.add_argument("--size", type=positive, default=256, metavar="N", help="side of the crops (default 256)")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="default 3")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of torch (default 1)")
    return parser.parse_args(list(argv))


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help") or (argv[0] in KINDS[:2] and {"-h", "--help"} & set(argv)):
        print(HELP.format(doc=__doc__))
        return 0
    kind, *words = argv
    if kind not in KINDS:
        raise UserError(f"benchmark {kind}: no such benchmark; {did_you_mean(kind, KINDS)}")
    if kind == "quantizers":
        from ..benchmarks.quantizers import run

        return run(words)
    if kind == "loader":
        options = loader_arguments(words)
        from ..benchmarks.loader import benchmark_loader

        with torch_threads(options.threads):
            benchmark_loader(options.data_root, images=options.images, size=options.size, rounds=options.rounds)
        return 0
    from ..configs.compose import command_line

    own = ("rounds", "batch", "precision", "threads", "compare", "images", "size", "processes")
    settings, overrides = take_out(command_line(words, command=f"benchmark {kind}"), own)
    processes = whole_number(settings, "processes", 1)
    if processes > 1 and kind != "train":
        raise UserError(f"processes={processes}: benchmark train alone measures several processes")
    if processes > 1 and "RANK" not in os.environ:
        from ..benchmarks.reduction import launch

        return launch(words, processes)
    with torch_threads(whole_number(settings, "threads", 1)):
        if processes > 1:
            from ..benchmarks.reduction import benchmark_reduction

            benchmark_reduction(settings, overrides)
        elif kind == "train":
            from ..benchmarks.update import benchmark_train

            benchmark_train(settings, overrides)
        else:
            from ..benchmarks.evaluation import benchmark_evaluate

            benchmark_evaluate(settings, overrides)
    return 0


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
