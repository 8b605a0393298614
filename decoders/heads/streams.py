"""Name and width of the stream that a head reads."""

from collections.abc import Mapping

from ...common.errors import did_you_mean


def width_of(dim: int | Mapping[str, int], stream: str | None) -> tuple[str, int]:
    """stream: null is the only one there is."""
    widths = {"main": dim} if isinstance(dim, int) else dict(dim)
    if stream is None and len(widths) > 1:
        raise ValueError(f"stream=null: the codes have {', '.join(widths)}; name one")
    name = stream or next(iter(widths))
    if name not in widths:
        raise ValueError(f"stream={name}: the codes have no such stream; {did_you_mean(name, widths)}")
    return name, widths[name]
