"""What ends a run before its last update: SIGTERM, Ctrl-C, SIGUSR1 and trainer.max_time, agreed on by all ranks."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ..common.console import say
from ..common.distributed import process_count

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
MAX_TIME = 1  # beside the numbers of signals; as one of them it would be SIGHUP, which is not listened to
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


def name_of(reason: int) -> str:
    return "trainer.max_time" if reason == MAX_TIME else signal.Signals(reason).name


def exit_code(reason: int) -> int:
    """75 where the machine's time was up and a scheduler may start the run again, else what a shell reports."""
    return TRY_AGAIN if name_of(reason) in ("trainer.max_time", "SIGUSR1") else 128 + reason


class StopRequest:
    """Whether this process was asked to stop, and whether any rank was."""

    def __init__(self) -> None:
        self.asked_by: int | None = None
        self.previous: dict[int, Any] = {}

    def listen(self) -> None:
        # Not before training: until then Lightning puts up handlers, and would raise in the middle of an update.
        self.asked_by = None
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def hand_back(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def watch_clock(self, *, started_at: float, max_seconds: float | None) -> None:
        if max_seconds is not None and time.monotonic() - started_at >= max_seconds:
            self._ask(MAX_TIME)

    def of_any_rank(self, agreed: int) -> int:
        """0 for none. It may reach one rank an update earlier than another, and all have to stop after the same one.

        agreed: the largest `asked_by` of all ranks, as of this update's check for finite numbers.
        """
        return agreed if process_count() > 1 else self.asked_by or 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked_by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._ask(number)

    def _ask(self, reason: int) -> None:
        if self.asked_by is not None:  # the first one counts: launchers and schedulers repeat themselves
            return
        self.asked_by = reason
        if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            # torch raises wherever we are when a loader's worker dies; this update has its batch and can be finished.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with suppress(RuntimeError):  # the signal came while another line was being printed
            again = "Ctrl-C again: at once, without a checkpoint"
            say(f"{name_of(reason)}: stopping after this update ({again})", error=True)


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Before and after the updates SIGTERM and SIGUSR1 end the process, with the exit code they have in training.

    Lightning leaves SIGUSR1 alone where it finds a handler; under SLURM it would otherwise requeue the job itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in SIGNALS if number != signal.SIGINT]

    def leave(number: int, frame: FrameType | None) -> None:
        for other in numbers:  # a second one must not cut short what tidies up
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(exit_code(number))

    previous = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
