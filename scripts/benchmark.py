"""Measure speed here: whole update against bare modules, evaluation, JPEG loading, quantizers against the library."""

from collections.abc import Sequence

from ..common.arguments import split_overrides, whole_number
from ..common.errors import UserError, did_you_mean

HELP = """\
usage: imtok benchmark train experiment=NAME [rounds=5] [batch=2] [precision=auto] [threads=1] [compare=auto] [key=...]
       imtok benchmark evaluate [experiment=NAME] [rounds=3] [images=16] [threads=1] [key=...]
       imtok benchmark loader [data.root=DIR] [images=400] [size=256] [rounds=3] [threads=1]
       imtok benchmark quantizers [CASE ...] [--tokens N] [--device cuda] [--dtype bf16] [--compile] ...

{doc}
All arms of a benchmark take turns in one process, so that a busy machine slows them alike; medians are printed.
  train     the whole update as it runs in training (losses, GAN, optimizer, EMA, logging) against forward and backward
            of the bare encoder, quantizer, decoder, LPIPS and discriminator; compare=true adds the bare update in
            fp32 against bf16 with channels_last (auto: where bf16 has matrix units)
  evaluate  `imtok evaluate` on images in memory against the sum of the forwards that it needs
  loader    training crops of a JPEG folder (made here when none is given), images a core-second
  quantizers  a step of imtok's quantizers against vector-quantize-pytorch's, and the memory that each takes;
            `imtok benchmark quantizers --help` says more

examples:
  imtok benchmark train experiment=llamagen_vq16
  imtok benchmark loader data.root=photos
  imtok benchmark quantizers lfq18 vq16k"""

KINDS = ("train", "evaluate", "loader", "quantizers")


def main(argv: Sequence[str]) -> int:
    if argv and argv[0] == "quantizers":  # flags of its own
        from ..benchmarks.quantizers import run

        return run(argv[1:])
    if not argv or "-h" in argv or "--help" in argv:
        print(HELP.format(doc=__doc__))
        return 0
    kind, *words = argv
    if kind not in KINDS:
        raise UserError(f"benchmark {kind}: no such benchmark; {did_you_mean(kind, KINDS)}")
    own = ("rounds", "batch", "precision", "threads", "compare", "images", "size")
    settings, overrides = split_overrides(words, command=f"benchmark {kind}", own=own)

    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(whole_number(settings, "threads", 1))
    try:
        if kind == "loader":
            from ..benchmarks.loader import benchmark_loader

            benchmark_loader(settings, overrides)
        elif kind == "train":
            from ..benchmarks.update import benchmark_train

            benchmark_train(settings, overrides)
        else:
            from ..benchmarks.evaluation import benchmark_evaluate

            benchmark_evaluate(settings, overrides)
    finally:
        torch.set_num_threads(before)
    return 0
