"""A worker process outlives the signals that are meant for its run, and does not outlive the run."""

import os
import select
import signal
import subprocess
import sys

import pytest

CODE = """
import os, signal, sys, time
from imtok.data.worker import begin_worker
if os.fork():
    time.sleep(600)
begin_worker()
for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
    os.kill(os.getpid(), getattr(signal, name))
os.write(1, b"alive")
time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_ignores_the_signals_of_its_group_and_ends_with_its_parent() -> None:
    run = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE)
    try:
        assert os.read(run.stdout.fileno(), 5) == b"alive"
        assert not select.select([run.stdout], [], [], 1.2)[0], "it stays while its parent does"
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert select.select([run.stdout], [], [], 60)[0] and os.read(run.stdout.fileno(), 5) == b""  # nobody holds it
    run.stdout.close()
