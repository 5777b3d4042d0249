"""One file as columns of text and numbers, with the line of what is wrong."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simulations.data.base import DataError
from simulations.data.checks import LARGEST
from simulations.data.recordings.options import Options
from simulations.data.recordings.text import MAX_COLUMNS, content, form

MAX_CELLS: Final = 2**29
"""Cells of one file."""
_EMPTY: Final = ("", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>", "?", "-")
_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_INDEX: Final = ("", "unnamed: 0", "index", "__index_level_0__")


@dataclass(frozen=True)
class Table:
    """One file's columns.

    Attributes
    ----------
    name : str
        Of the file, for messages.
    columns : dict[str, pa.ChunkedArray]
        All equally long; without a running number that somebody's program wrote.
    first_line : int
        In the file, of the first row; 0 in Parquet, whose rows have no lines.
    decimal : str
    notes : tuple[str, ...]
        Of this file, without its name.
    """

    name: str
    columns: dict[str, Any]
    first_line: int
    decimal: str = "."
    notes: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return max((len(column) for column in self.columns.values()), default=0)

    def where(self, row: int) -> str:
        """Return file and line of a row, from 0."""
        if self.first_line:
            return f"{self.name}: line {row + self.first_line}"
        return f"{self.name}: row {row}"

    def texts(self, column: str) -> Any:
        """Return a column as text without spaces around it; null where it says nothing."""
        values = self.columns[column]
        if pa.types.is_floating(values.type):  # 1.0 and 1 are one label
            whole = pc.all(pc.equal(values, pc.floor(values)), min_count=0).as_py()
            values = values.cast(pa.int64(), safe=False) if whole else values
        return _cleaned(values.cast(pa.string()))

    def is_time(self, column: str) -> bool:
        """Tell whether a column holds points of time by its type."""
        return bool(pa.types.is_timestamp(self.columns[column].type))

    @cached_property
    def numeric(self) -> dict[str, NDArray[np.float64]]:
        """Columns whose cells are numbers or empty, at least one a number; NaN where empty."""
        found = {}
        for name in self.columns:
            values = self._numbers(name)
            if values is not None and not np.isnan(values).all():
                found[name] = values
        return found

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column of numbers.

        Raises
        ------
        DataError
            With the line of the first cell that is none.
        """
        if column in self.numeric:
            return self.numeric[column]
        values = self._numbers(column)
        if values is None:
            raise self.no_number(column)
        return values  # an empty one

    def measured(self, column: str) -> NDArray[np.float32]:
        """Return a channel.

        Raises
        ------
        DataError
            With the line of the first cell that is no number, or none that a sensor measures.
        """
        values = self.numbers(column)
        wrong = np.abs(values) > LARGEST
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{self.where(row)}: column {column!r}: {values[row]:.3g}; at most {LARGEST:g} is "
                "read: empty the cell"
            )
        return values.astype(np.float32)

    def no_number(self, column: str) -> DataError:
        """Return the error that names the first cell of a column that is no number."""
        text = self._points(column)
        wrong = pc.invert(pc.match_substring_regex(text, _NUMBER)).fill_null(False)
        row = int(pc.index(wrong, True).as_py())
        said = str(self.texts(column)[row].as_py())[:40]
        return DataError(
            f"{self.where(row)}: column {column!r}: {said!r} is no number; mend or empty the cell, "
            f"or name the column in data.options.ignore"
        )

    def mostly_numbers(self, column: str) -> bool:
        """Tell whether a column of text is one of numbers with a few cells that are none."""
        if not pa.types.is_string(self.columns[column].type):
            return False
        text = self._points(column).drop_null()
        good = pc.sum(pc.match_substring_regex(text, _NUMBER), min_count=0).as_py()
        return bool(len(text)) and good > len(text) // 2

    def _points(self, column: str) -> Any:
        """Cells as text with a decimal point."""
        text = self.texts(column)
        if self.decimal == ",":
            text = pc.replace_substring(text, ",", ".")
        return text

    def _numbers(self, column: str) -> NDArray[np.float64] | None:
        values = self.columns[column]
        if pa.types.is_string(values.type):
            text = self._points(column)
            fits = pc.match_substring_regex(text, _NUMBER)
            if not pc.all(fits, min_count=0).as_py():
                return None
            values = pc.replace_substring_regex(text, r"^\+", "").cast(pa.float64())
        elif not (
            pa.types.is_floating(values.type)
            or pa.types.is_integer(values.type)
            or pa.types.is_decimal(values.type)
            or pa.types.is_boolean(values.type)
            or pa.types.is_null(values.type)
        ):
            return None
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        array: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy()
        return array


def read(path: Path, name: str, options: Options) -> Table:
    """Read one file.

    Raises
    ------
    DataError
        Where it is not readable, too large, or holds no row.
    """
    parquet = path.name.lower().endswith(".parquet")
    try:
        table = _parquet(path, name) if parquet else _text(path, name, options)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{name}: not readable: {said}") from error
    if not table.rows:
        raise DataError(f"{name}: no samples, a line of names at most; leave the file out")
    return table


def _text(path: Path, name: str, options: Options) -> Table:
    text = content(path, name)
    found = form(text, name, options)
    skipped: list[tuple[int, int]] = []

    def on_invalid(row: Any) -> str:
        skipped.append((row.number or 0, row.actual_columns))
        return "skip"

    names = [each or f"unnamed {place}" for place, each in enumerate(found.names)]
    table = pa_csv.read_csv(
        io.BytesIO(text),
        read_options=_options(pa_csv.ReadOptions, names, found.skip, found.encoding),
        parse_options=pa_csv.ParseOptions(
            delimiter=found.delimiter, invalid_row_handler=on_invalid
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
    notes = _check_skipped(name, skipped, table.num_rows, len(names), found.skip)
    if found.encoding == "cp1252":
        notes += ("not UTF-8; read as Windows-1252",)
    if found.decimal == "," and options.decimal is None:
        notes += ("decimal commas; data.options.decimal says otherwise",)
    columns = {n: table[n] for n, own in zip(names, found.names, strict=True) if not _is_index(own)}
    return Table(name, columns, found.skip + 1, found.decimal, notes)


def _options(make: Callable[..., Any], names: list[str], skip: int, encoding: str) -> Any:
    return make(
        use_threads=False,  # else rows have no numbers
        skip_rows=skip,
        column_names=names,
        encoding=encoding,
    )


def _check_skipped(
    name: str, skipped: list[tuple[int, int]], rows: int, columns: int, above: int
) -> tuple[str, ...]:
    """Refuse lines of another length; the last may have been cut off as a battery went flat."""
    if not skipped:
        return ()
    number, actual = skipped[0]
    line = max(number, above + 1)
    if len(skipped) == 1 and number >= rows + above and actual < columns:
        return ("its last line is cut off, and left out",)
    raise DataError(
        f"{name}: line {line}: {actual} cells; the line of names has {columns}. A comma too many, "
        "or another delimiter? data.options.delimiter says which"
    )


def _is_index(name: str) -> bool:
    return name.casefold() in _INDEX


def _parquet(path: Path, name: str) -> Table:
    with pq.ParquetFile(path) as file:
        found = file.metadata
        if found.num_columns > MAX_COLUMNS or found.num_rows * found.num_columns > MAX_CELLS:
            raise DataError(
                f"{name}: {found.num_rows:,} rows of {found.num_columns:,} columns; at most "
                f"{MAX_COLUMNS:,} columns and {MAX_CELLS:,} cells are read"
            )
        flat = [f.name for f in file.schema_arrow if not pa.types.is_nested(f.type)]
        nested = [f.name for f in file.schema_arrow if pa.types.is_nested(f.type)]
        table = file.read(columns=flat, use_threads=False)
    columns = {}
    for each in flat:
        values = table[each]
        if pa.types.is_dictionary(values.type) or pa.types.is_large_string(values.type):
            values = values.cast(pa.string())
        if not _is_index(each):
            columns[" ".join(each.split())] = values
    notes = (f"lists in {', '.join(nested)} are not read",) if nested else ()
    return Table(name, columns, 0, ".", notes)


def _cleaned(text: Any) -> Any:
    trimmed = pc.utf8_trim_whitespace(text)
    empty = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(_EMPTY))
    return pc.if_else(empty, pa.scalar(None, pa.string()), trimmed)
