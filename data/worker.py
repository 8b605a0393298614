"""Worker processes of loaders and of drawing: only the process that started them stops them, and they end with it."""

import multiprocessing
import os
import signal
import threading
import time
from typing import Any


def begin_worker(*_: Any) -> None:
    """The first thing a worker process does; whatever number it is given makes no difference."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):  # sent to a whole group, they ask the run, which still needs batches
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # A thread and not PR_SET_PDEATHSIG, which fires as soon as the *thread* that started the worker ends.
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """Both are asked: the sentinel knows of a parent that died before us, but other children may hold it open."""
    started_by = multiprocessing.parent_process()
    while os.getppid() == parent and (started_by is None or started_by.is_alive()):
        time.sleep(0.5)
    os._exit(1)
