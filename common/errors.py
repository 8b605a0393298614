"""One clear line for the user; the traceback only with IMTOK_DEBUG=1."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(ValueError):
    """Something the user can mend: names the YAML key or flag, what was given, and what would work."""


class MissingWeights(UserError):
    """A pretrained file that a part needs is not on this machine and cannot be fetched."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of an error line: the closest known name, or else some of them."""
    known = sorted(known)
    close = get_close_matches(given, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" ... ({len(known)} in all)" if len(known) > 20 else ""
    return f"known: {', '.join(known[:20])}{more}" if known else "nothing is known here"


def one_line(error: BaseException) -> str:
    """Collapse an error to one line; operating-system errors get the remedy that their number suggests."""
    if isinstance(error, OSError) and error.errno is not None:
        remedies = {
            17: "a file is in the way: choose another folder (hydra.run.dir=DIR or --out DIR)",
            20: "a file is in the way: choose another folder (hydra.run.dir=DIR or --out DIR)",
            13: "no permission: choose a folder you may write to (hydra.run.dir=DIR or --out DIR)",
            28: "the disk is full: free some space, then run this again (a training goes on with ckpt_path=last)",
            30: "the file system is read-only: choose another folder (hydra.run.dir=DIR or --out DIR)",
        }
        where = f" {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}" + (f"; {remedies[error.errno]}" if error.errno in remedies else "")
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Print a foreseen failure as `imtok: ...` and exit with 1; unforeseen ones keep their traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        if os.environ.get("IMTOK_DEBUG") == "1":
            raise
        print(f"imtok: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("imtok: interrupted; ckpt_path=last goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
