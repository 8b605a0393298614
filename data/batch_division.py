"""How the images of one update are divided over processes and micro-batches."""

from dataclasses import dataclass

from ..common.errors import UserError

MOST_EVAL_IMAGES = 64  # at once where nobody says: a recipe's batch may be 16384


@dataclass(frozen=True, kw_only=True)
class BatchDivision:
    """images = processes * accumulate * per_device."""

    images: int
    processes: int
    accumulate: int

    @property
    def per_device(self) -> int:
        return self.images // (self.processes * self.accumulate)


def divide_batch(
    *, batch_size: int, batch_per_device: int | None = None, accumulate: int | None = None, processes: int = 1
) -> BatchDivision:
    """accumulate: micro-batches an update; None: as many as batch_per_device asks for, else one."""
    for key, value in (
        ("data.batch_size", batch_size),
        ("data.batch_per_device", batch_per_device),
        ("trainer.accumulate", accumulate),
    ):
        wanted = type(value) is int and value >= 1
        if not (wanted or (value is None and key != "data.batch_size")):
            raise UserError(f"{key}={value}: a whole number of at least 1")
    over = f"{processes} processes" if processes > 1 else "one process"
    if batch_per_device is None:
        unit, what = processes * (accumulate or 1), over
        if accumulate is not None and accumulate > 1:
            what += f" and trainer.accumulate={accumulate}"
    else:
        unit, what = processes * batch_per_device, f"{over} with data.batch_per_device={batch_per_device}"
    if batch_size % unit:
        below = batch_size // unit * unit
        fitting = f"{below} or {below + unit}" if below else f"{unit}"
        raise UserError(
            f"data.batch_size={batch_size}: the images of one update do not divide by {what}; give {fitting}"
            + ("" if batch_per_device is None else ", or another data.batch_per_device")
        )
    if batch_per_device is None:
        return BatchDivision(images=batch_size, processes=processes, accumulate=accumulate or 1)
    asked = batch_size // unit
    if accumulate not in (None, asked):
        raise UserError(
            f"trainer.accumulate={accumulate}: data.batch_size={batch_size} of {what} takes {asked} micro-batches an "
            "update; leave one of the two at null"
        )
    return BatchDivision(images=batch_size, processes=processes, accumulate=asked)
