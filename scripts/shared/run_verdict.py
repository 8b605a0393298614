"""What a run's metrics.csv says about its health, and the YAML key that would help."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import UserError
from ...eval.report.training_curves import read_columns
from ...training.health_limits import DATA_WAIT, DISCRIMINATOR_LOSS, GAN_WEIGHT, REMEDIES, USAGE


@dataclass
class Line:
    """ok: True, False, or None for what is only information."""

    ok: bool | None
    name: str
    said: str
    remedy: str = ""


class Metrics:
    """Columns of a metrics.csv; a column holds the numbers that were logged, in order."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path.parent}: no metrics.csv there; give a run folder (runs/EXPERIMENT/STAMP)")
        self.columns = {name: [value for _, value in points] for name, points in read_columns(path).items()}
        if not self.columns:
            raise UserError(f"{path}: no rows yet; let the run log a few updates (trainer.log_every)")

    def of(self, *names: str) -> list[float]:
        """The first of these columns that has numbers."""
        return next((self.columns[name] for name in names if name in self.columns), [])


def tail(values: Sequence[float]) -> float:
    """Mean of the last tenth, at least three rows."""
    last = values[-max(3, len(values) // 10) :]
    return sum(last) / len(last)


def head(values: Sequence[float]) -> float:
    first = values[: max(3, len(values) // 10)]
    return sum(first) / len(first)


def verdict(name: str, said: str, *faults: tuple[bool, str, str]) -> Line:
    """faults: (whether it is there, what it means, remedy); the first one counts."""
    for there, meaning, remedy in faults:
        if there:
            return Line(False, name, f"{said}: {meaning}" if meaning else said, remedy)
    return Line(True, name, said)


def check_usage(m: Metrics) -> Line | None:
    usage = m.of("train/usage", "val/usage")
    if not usage:
        return None
    now, best, remedy = tail(usage), max(usage), REMEDIES["usage"]
    return verdict(
        "codebook",
        f"{now:.1%} of the codes in use (best {best:.1%})",
        (now < USAGE, "collapsed", remedy),
        (len(usage) >= 6 and now < 0.6 * best, "falling", f"optimizer.lr lower, or {remedy}"),
    )


def check_loss(m: Metrics) -> Line | None:
    loss = m.of("train/l1", "train/l2", "train/lpips", "train/total")
    if len(loss) < 6:
        return None
    before, now = head(loss), tail(loss)
    remedy = "optimizer.lr (try a third of it, and three times), trainer.clip=1.0"
    said = f"reconstruction loss {before:.4g} at first, {now:.4g} now"
    return verdict("learning", said, (now != now or now > 0.97 * before, "not falling", remedy))


def check_gan_weight(m: Metrics) -> Line | None:
    weight = [w for w in m.of("train/gan_weight") if w > 0]
    if len(weight) < 4:
        return None
    now, first = tail(weight), head(weight)
    said = f"adaptive or fixed weight {now:.3g} (at first {first:.3g})"
    return verdict("GAN weight", said, (now > GAN_WEIGHT or now > 50 * first, "blown up", REMEDIES["gan_weight"]))


def check_discriminator(m: Metrics) -> Line | None:
    loss, real, fake = m.of("train/gan_discriminator"), m.of("train/logits_real"), m.of("train/logits_fake")
    if len(loss) < 4:
        return None
    gap = tail(real) - tail(fake) if real and fake else 0.0
    won, remedy = tail(loss) < DISCRIMINATOR_LOSS, REMEDIES["gan_discriminator"]
    return verdict(
        "discriminator",
        f"loss {tail(loss):.3g}, logits of real and fake {gap:.2g} apart",
        (won, "it has won, the generator learns nothing from it", remedy),
        (gap > 20, "running away", remedy),
    )


def check_skipped(m: Metrics) -> Line | None:
    skipped = m.of("train/skipped_updates")
    if not skipped:
        return None
    updates = max(m.columns["update"][-1], 1)
    said = f"{int(skipped[-1])} of {int(updates)} updates were skipped as not finite"
    too_many = skipped[-1] / updates > 0.01 or any(v != v for v in m.of("train/total"))
    remedy = "trainer.precision=bf16 or fp32 instead of fp16, trainer.clip=1.0, optimizer.lr lower"
    return verdict("numbers", said, (too_many, "", remedy))


def check_loader(m: Metrics) -> Line | None:
    waiting, speed = m.of("train/data_wait"), m.of("train/images_per_second")
    if not waiting:
        return None
    said = f"{tail(waiting):.0%} of the time waits for images" + (f", {tail(speed):.1f} images/s" if speed else "")
    return verdict("loading", said, (tail(waiting) > DATA_WAIT, "", REMEDIES["data_wait"]))


CHECKS: tuple[Callable[[Metrics], Line | None], ...] = (
    check_loss, check_usage, check_skipped, check_discriminator, check_gan_weight, check_loader,
)  # fmt: skip


def check_run(folder: Path) -> list[Line]:
    """A verdict a check; checks whose columns the run has not logged are silent."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    metrics = Metrics(folder / "metrics.csv")
    found = [line for check in CHECKS if (line := check(metrics)) is not None]
    if not found:
        return [Line(None, "verdict", "too few rows to say; come back when some updates more are logged")]
    return found
