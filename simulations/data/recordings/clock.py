"""A column of time as nanoseconds, and the rate that it shows."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simulations.data.base import DataError
from simulations.data.recordings.options import Options, Unit
from simulations.data.recordings.table import Table

_FACTORS: Final = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0}
_ENDINGS: Final = {
    **dict.fromkeys(("ns", "nanos", "nanoseconds"), "ns"),
    **dict.fromkeys(("us", "micros", "microseconds"), "us"),
    **dict.fromkeys(("ms", "millis", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "seconds", "elapsed"), "s"),
}
_DOUBLED: Final = 0.01
_EPOCHS: Final = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (1e8, "s"))
_STEPS: Final = ((1e6, "ns"), (1e3, "us"), (2.0, "ms"), (1.0, ""), (0.0, "s"))


def nanoseconds(table: Table, column: str, options: Options) -> tuple[NDArray[np.int64], bool]:
    """Return each row's time, and whether it counts from 1970 and not from the file's begin.

    Raises
    ------
    DataError
        With the line of a cell that is no time, or where the unit cannot be told.
    """
    if table.is_time(column):
        stamps = table.columns[column].cast(pa.timestamp("ns"), safe=False)
        return _complete(table, column, stamps), True
    if column not in table.numeric:
        return _complete(table, column, _iso(table, column)), True
    values = table.numbers(column)
    if np.isnan(values).any():
        row = int(np.argmax(np.isnan(values)))
        raise DataError(f"{table.where(row)}: column {column!r}: empty; every line needs its time")
    unit = options.time_unit if options.time_unit != "auto" else unit_of(table, column, values)
    if np.abs(values).max() * _FACTORS[unit] >= 2.0**63:
        raise DataError(
            f"{table.name}: column {column!r}: times up to {values.max():.3g} {unit} are out of "
            "range; data.options.time_unit says the unit"
        )
    absolute = bool(np.abs(values).min() * _FACTORS[unit] > _EPOCHS[-1][0] * 1e9)
    return np.round(values * _FACTORS[unit]).astype(np.int64), absolute


def unit_of(table: Table, column: str, values: NDArray[np.float64]) -> Unit:
    """Tell seconds from milliseconds … by the column's name, the date, or the usual step."""
    ending = column.casefold().replace("(", "_").replace("[", "_").strip(")]").split("_")[-1]
    if ending.strip() in _ENDINGS:
        return _ENDINGS[ending.strip()]  # type: ignore[return-value]
    for least, unit in _EPOCHS:
        if np.abs(values).min() > least:
            return unit  # type: ignore[return-value]
    steps = np.abs(np.diff(values))
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
    unit = next(unit for least, unit in _STEPS if step >= least)
    if not unit:
        raise DataError(
            f"{table.name}: column {column!r} goes up in steps of {step:g}: seconds, milliseconds "
            "or a number of samples? Say data.options.time_unit, or, where it only counts, "
            "time = '' and hz"
        )
    return unit  # type: ignore[return-value]


def _iso(table: Table, column: str) -> Any:
    text = table.texts(column)
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC")):
        try:
            return text.cast(kind)
        except pa.ArrowInvalid:
            continue
    for row, cell in enumerate(text.to_pylist()):
        try:
            np.datetime64((cell or "").rstrip("Z").partition("+")[0], "ns")
        except ValueError:
            raise DataError(
                f"{table.where(row)}: column {column!r}: {str(cell)[:40]!r} is no time; numbers, "
                "or ISO 8601 such as 2024-01-03T10:00:00.020, are read"
            ) from None
    raise DataError(f"{table.name}: column {column!r}: some times have a time zone, others none")


def _complete(table: Table, column: str, stamps: Any) -> NDArray[np.int64]:
    missing = pc.is_null(stamps)
    if pc.any(missing).as_py():
        row = int(pc.index(missing, True).as_py())
        raise DataError(f"{table.where(row)}: column {column!r}: empty; every line needs its time")
    array: NDArray[np.int64] = stamps.cast(pa.int64()).to_numpy()
    return array


def pieces(
    table: Table, rows: NDArray[np.intp], time: NDArray[np.int64], options: Options
) -> list[NDArray[np.intp]]:
    """Cut rows where time goes back, if that may be; each piece's time goes up, each time once.

    Raises
    ------
    DataError
        Where it may not be, or many rows have one time.
    """
    own = time[rows]
    back = np.flatnonzero(np.diff(own) < 0) + 1
    if len(back) and not options.restarts:
        at = back[0]
        raise DataError(
            f"{table.where(int(rows[at]))}: time goes back, by "
            f"{(own[at - 1] - own[at]) / 1e9:g} s; sort the lines, or, where a new recording "
            "begins there, say data.options.restarts = true"
        )
    found = []
    for piece in np.split(rows, back):
        again = np.diff(time[piece], prepend=time[piece[0]] - 1) == 0
        if again.sum() > max(1, _DOUBLED * len(piece)):
            row = int(piece[np.argmax(again)])
            raise DataError(
                f"{table.where(row)}: the same time as the line before, as in {again.sum()} of "
                f"{len(piece)} lines; is it a clock of whole seconds, or are lines there twice? "
                "Name another column in data.options.time, or say time = '' and hz"
            )
        found.append(piece[~again])
    return found


def rate(time: NDArray[np.int64]) -> float | None:
    """Return samples a second, gaps apart; None of fewer than three samples."""
    steps = np.diff(time)
    if len(steps) < 2:
        return None
    usual = steps[steps <= 3 * np.median(steps)]
    return float(1e9 / usual.mean())


def rounded(hz: float) -> float:
    """A clock's rate as its maker meant it: a whole number where it is within 2 %."""
    whole = round(hz)
    return float(whole) if whole and abs(hz / whole - 1) < 0.02 else float(f"{hz:.3g}")
