"""How many windows there are, in numbers that were traced with a made-up number of them."""

from typing import Final

from torch import Tensor

MANY: Final = 618_033_988_751
"""Windows of a traced example: a prime, and far more than any other axis has elements."""
_NEAR: Final = 10_000  # so much more or less than a multiple is a multiple and a number
_BIG: Final = 1 << 62  # "to the end" of an axis


def length(value: int) -> tuple[int, int]:
    """How often the number of windows is in a number, and what is left.

    Raises
    ------
    ValueError
        Where it follows from the windows otherwise, as windows × windows.
    """
    times = round(value / MANY)
    if times == 0 or abs(value) >= _BIG:
        return 0, value
    left = value - times * MANY
    if abs(times) >= _NEAR or abs(left) >= _NEAR:
        raise ValueError(f"{value} follows from {MANY} windows, and not as a multiple of them")
    return times, left


def refuse_counted(value: float, near: float = 1e-9) -> None:
    """Refuse a fraction that was computed from the number of windows, but for a share of ``near``.

    Raises
    ------
    ValueError
        Where it was.
    """
    for ratio in (abs(value) / MANY, abs(value) * MANY):
        parts = 60 * ratio  # halves, thirds, quarters, fifths and sixths too
        most = min(60 * _NEAR, 1e-3 / near)  # beyond, any number is near a whole one
        if 0.5 < parts < most and abs(parts - round(parts)) < near * parts:
            raise ValueError(f"{value} follows from {MANY} windows: compute it with tensors")


def refuse_counted_in(constant: Tensor) -> None:
    """Refuse a constant that holds a number computed from the number of windows.

    Raises
    ------
    ValueError
        Where it does.
    """
    for value in set(constant.flatten().tolist()):
        if isinstance(value, float):
            refuse_counted(value, near=1e-6)  # float32
        elif isinstance(value, int) and length(value)[0]:
            raise ValueError(f"{value} follows from {MANY} windows: a constant cannot")
