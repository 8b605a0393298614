"""Writing while training goes on: one job at a time, in a thread, its errors handed back."""

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor

Job = Callable[[], object]


class BackgroundWriter:
    """`start` waits for the job before; `finish` for the last one. A killed process loses the job that it was at.

    The thread ends with the process and does not keep it: what is cut off has only written drafts.
    """

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def start(self, job: Job) -> None:
        assert self.thread is None, "finish() first, which tells whether the job before has failed"
        self.thread = threading.Thread(target=self._run, args=(job,), name="checkpoint", daemon=True)
        self.thread.start()

    def finish(self) -> BaseException | None:
        """Wait; what the job raised, or None. Further calls return None."""
        if self.thread is None:
            return None
        self.thread.join()
        self.thread = None
        error, self.error = self.error, None
        return error

    def _run(self, job: Job) -> None:
        try:
            job()
        except BaseException as error:  # the thread has nobody to raise it to
            self.error = error


def on_cpu(value: Any) -> Any:
    """A copy of nested containers whose tensors training does not change any more."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((k, on_cpu(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(on_cpu(v) for v in value)
    return value
