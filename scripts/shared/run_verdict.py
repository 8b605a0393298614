"""What a run's metrics.csv says about its health, and the YAML key that would help."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import UserError
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
        self.columns: dict[str, list[float]] = {}
        self.updates: dict[str, list[int]] = {}
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    number = _number(text)
                    if name and number is not None:
                        self.columns.setdefault(name, []).append(number)
                        self.updates.setdefault(name, []).append(int(_number(row.get("update")) or 0))
        if not self.columns.get("update"):
            raise UserError(f"{path}: no rows yet; let the run log a few updates (trainer.log_every)")

    def of(self, *names: str) -> list[float]:
        """The first of these columns that has numbers."""
        return next((self.columns[name] for name in names if self.columns.get(name)), [])


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def tail(values: Sequence[float]) -> float:
    """Mean of the last tenth, at least three rows."""
    last = values[-max(3, len(values) // 10) :]
    return sum(last) / len(last)


def head(values: Sequence[float]) -> float:
    first = values[: max(3, len(values) // 10)]
    return sum(first) / len(first)


def check_usage(m: Metrics) -> Line | None:
    usage = m.of("train/usage", "val/usage")
    if not usage:
        return None
    now, best = tail(usage), max(usage)
    name, said = "codebook", f"{now:.1%} of the codes in use (best {best:.1%})"
    remedy = REMEDIES["usage"]
    if now < USAGE:
        return Line(False, name, f"{said}: collapsed", remedy)
    if len(usage) >= 6 and now < 0.6 * best:
        return Line(False, name, f"{said}: falling", f"optimizer.lr lower, or {remedy}")
    return Line(True, name, said)


def check_loss(m: Metrics) -> Line | None:
    loss = m.of("train/l1", "train/l2", "train/lpips", "train/total")
    if len(loss) < 6:
        return None
    before, now = head(loss), tail(loss)
    said = f"reconstruction loss {before:.4g} at first, {now:.4g} now"
    if now != now or now > 0.97 * before:
        return Line(
            False,
            "learning",
            f"{said}: not falling",
            "optimizer.lr (try a third of it, and three times), trainer.clip=1.0",
        )
    return Line(True, "learning", said)


def check_gan_weight(m: Metrics) -> Line | None:
    weight = [w for w in m.of("train/gan_weight") if w > 0]
    if len(weight) < 4:
        return None
    now, first = tail(weight), head(weight)
    said = f"adaptive or fixed weight {now:.3g} (at first {first:.3g})"
    if now > GAN_WEIGHT or now > 50 * first:
        return Line(
            False,
            "GAN weight",
            f"{said}: blown up",
            REMEDIES["gan_weight"],
        )
    return Line(True, "GAN weight", said)


def check_discriminator(m: Metrics) -> Line | None:
    loss, real, fake = m.of("train/gan_discriminator"), m.of("train/logits_real"), m.of("train/logits_fake")
    if len(loss) < 4:
        return None
    gap = tail(real) - tail(fake) if real and fake else 0.0
    said = f"loss {tail(loss):.3g}, logits of real and fake {gap:.2g} apart"
    remedy = REMEDIES["gan_discriminator"]
    if tail(loss) < DISCRIMINATOR_LOSS:
        return Line(False, "discriminator", f"{said}: it has won, the generator learns nothing from it", remedy)
    if gap > 20:
        return Line(False, "discriminator", f"{said}: running away", remedy)
    return Line(True, "discriminator", said)


def check_skipped(m: Metrics) -> Line | None:
    skipped = m.of("train/skipped_updates")
    if not skipped:
        return None
    updates = max(m.columns["update"][-1], 1)
    share = skipped[-1] / updates
    said = f"{int(skipped[-1])} of {int(updates)} updates were skipped as not finite"
    if share > 0.01 or any(v != v for v in m.of("train/total")):
        return Line(
            False,
            "numbers",
            said,
            "trainer.precision=bf16 or fp32 instead of fp16, trainer.clip=1.0, optimizer.lr lower",
        )
    return Line(True, "numbers", said)


def check_loader(m: Metrics) -> Line | None:
    waiting = m.of("train/data_wait")
    if not waiting:
        return None
    said = f"{tail(waiting):.0%} of the time waits for images"
    speed = m.of("train/images_per_second")
    said += f", {tail(speed):.1f} images/s" if speed else ""
    if tail(waiting) > DATA_WAIT:
        return Line(False, "loading", said, REMEDIES["data_wait"])
    return Line(True, "loading", said)


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
