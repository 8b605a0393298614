"""A signal to the whole process group, as `timeout` and schedulers send it, costs no update."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imtok.data.datamodule import ImageData
from imtok.data.generated import GeneratedImages
from imtok.training.checkpoint import read

ROOT = Path(__file__).parents[2]
TINY = [
    "debug=tiny",
    "callbacks=[checkpoint]",
    "evaluate_after=false",
    "trainer.threads=1",
    "trainer.max_updates=100000",
    "trainer.checkpoint_every=100000",
    "data.num_workers=2",
    "name=cut",
]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.fixture
def start(tmp_path):
    """Starts a run in a process group of its own; what a failed test leaves running is killed."""
    started: list[subprocess.Popen] = []

    def start(*words: str, launcher: tuple[str, ...] = (), script: Path = ROOT / "train.py") -> subprocess.Popen:
        command = [sys.executable, *launcher, str(script), *TINY, *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "IMTOK_CACHE": str(tmp_path / "cache")}
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **out))
        return started[-1]

    yield start
    for process in started:
        for pid in [*ranks_of(process), process.pid] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def rows(cwd: Path) -> list[dict[str, str]]:
    found = list(cwd.glob("runs/cut/*/metrics.csv"))
    return list(csv.DictReader(found[0].open())) if found else []


def train_for(process: subprocess.Popen, cwd: Path, updates: int) -> None:
    deadline = time.monotonic() + 300
    while len(rows(cwd)) < updates:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def last_update(cwd: Path) -> int:
    (file,) = cwd.glob("runs/cut/*/checkpoints/last.ckpt")
    update = read(file)["update"]
    assert [int(r["update"]) for r in rows(cwd)] == list(range(1, update + 1))
    return update


def ranks_of(launcher: subprocess.Popen) -> list[int]:
    return [int(n) for n in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]


@pytest.fixture
def loader(tmp_path, monkeypatch):
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path))
    source = GeneratedImages(image_size=16, count=64, val_count=1)
    return ImageData(source=source, image_size=16, batch_size=1, num_workers=2, flip=False).train_loader(num_batches=40)


def test_loader_workers_leave_signals_to_the_run(loader):
    batches = iter(loader)
    next(batches), next(batches)  # one of each worker: both have begun
    workers = [worker.pid for worker in batches.gi_frame.f_locals["self"]._iterator._workers]
    for worker in workers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(worker, number)
    assert sum(1 for _ in batches) == 38
    loader._iterator._shutdown_workers()
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


@pytest.mark.slow
def test_loader_workers_end_with_their_parent(tmp_path):
    code = (
        "import os, signal, torch\n"
        "from imtok.data.worker import begin_worker\n"
        "class Slow(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, i):\n"
        "        import time; time.sleep(0 if i == 0 else 600)\n"  # torch's own watch looks only between batches
        "        return os.getpid()\n"
        "loader = torch.utils.data.DataLoader(Slow(), batch_size=1, num_workers=1, worker_init_fn=begin_worker)\n"
        "print(int(next(iter(loader))), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=120)
    worker, deadline = int(done.stdout), time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            os.kill(worker, 0)
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker has outlived its parent")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_to_the_group(start, tmp_path, number, code):
    process = start()
    train_for(process, tmp_path, 3)
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said and "DataLoader" not in said, said
    reached = last_update(tmp_path)
    assert f"stopped by {number.name} after update {reached}" in said
    more = start("ckpt_path=last", f"trainer.max_updates={reached + 2}")
    said, _ = more.communicate(timeout=120)
    assert more.returncode == 0 and last_update(tmp_path) == reached + 2, said


@pytest.mark.slow
def test_the_time_is_up(start, tmp_path):
    process = start("trainer.max_time=00:00:03")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert f"stopped by trainer.max_time after update {last_update(tmp_path)}" in said


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the ranks' processes")
@pytest.mark.parametrize("how", ["group", "one_rank", "time"])
def test_two_ranks_stop_after_the_same_update(start, tmp_path, how):
    script = tmp_path / "watched.py"
    script.write_text(
        "import os, pathlib\n"
        "from imtok.training import run\n"
        "def code_of(reason, real=run.exit_code):\n"
        "    code = real(reason)\n"
        "    pathlib.Path(f\"rank{os.environ['RANK']}\").write_text(str(code))\n"
        "    return code\n"
        "run.exit_code = code_of\n"
        "from imtok.training.module import TokenizerTraining\n"
        "def on_train_end(self):\n"
        "    pathlib.Path(f\"update{os.environ['RANK']}\").write_text(str(self.update))\n"
        "TokenizerTraining.on_train_end = on_train_end\n"
        "from imtok.train import main\n"
        "main()\n"
    )
    words = ["trainer.max_time=00:00:06"] if how == "time" else []
    process = start(*words, launcher=TORCHRUN, script=script)
    if how != "time":
        train_for(process, tmp_path, 3)
    if how == "group":
        for group in (process.pid, *ranks_of(process)):  # torchrun gives each rank a group of its own
            os.killpg(group, signal.SIGTERM)
    elif how == "one_rank":
        os.kill(ranks_of(process)[1], signal.SIGUSR1)
    said, _ = process.communicate(timeout=120)
    reached = last_update(tmp_path)
    assert [(tmp_path / f"update{rank}").read_text() for rank in (0, 1)] == [str(reached)] * 2, said
    code = "143" if how == "group" else "75"
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == [code] * 2, said
