"""The text of a CSV file before it is read: its bytes, delimiter, decimal sign and names."""

import csv
import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulations.data.base import DataError
from simulations.data.recordings.options import Options

MAX_TEXT: Final = 2**30
"""Bytes of one text file, unpacked."""
MAX_COLUMNS: Final = 4096
_HEAD: Final = 2**18
_MOST_LINES: Final = 20
_DELIMITERS: Final = (",", ";", "\t", "|")
_NUMBER: Final = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Form:
    """How a text file is written."""

    names: tuple[str, ...]
    delimiter: str
    decimal: str
    encoding: str
    skip: int
    """Lines above the first row."""


def content(path: Path, name: str) -> bytes:
    """Return a file's bytes, unpacked.

    Raises
    ------
    DataError
        Where it is larger than ``MAX_TEXT``, or no gzip though its name says so.
    """
    try:
        opener = gzip.open if path.name.lower().endswith(".gz") else open
        with opener(path, "rb") as file:
            text: bytes = file.read(MAX_TEXT + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: not a readable gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error
    if len(text) > MAX_TEXT:
        raise DataError(
            f"{name}: over {MAX_TEXT:,} bytes of text; cut the recording into several files, or "
            "save it as Parquet"
        )
    return text


def form(text: bytes, name: str, options: Options) -> Form:
    """Find out how a file is written.

    Raises
    ------
    DataError
        Where it is empty, no text, or its first line holds numbers and no names.
    """
    encoding = _encoding(text, name)
    head = text[:_HEAD].decode(encoding, errors="replace").removeprefix("\ufeff")
    lines = head.splitlines()[options.skip_lines :]
    above = options.skip_lines
    while lines and not lines[0].strip():
        lines, above = lines[1:], above + 1
    if not lines:
        raise DataError(f"{name}: empty; expected a line of names, and a line for each sample")
    sample = [line for line in lines[: _MOST_LINES + 1] if line.strip()]
    if len(lines) > len(sample) > 1 and len(text) > _HEAD:
        sample = sample[:-1]  # the last may be cut
    delimiter = options.delimiter or _delimiter(sample)
    rows = list(csv.reader(sample, delimiter=delimiter))
    decimal = options.decimal or _decimal(rows[1:], delimiter)
    names = options.columns or _names(rows[0], name)
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{name}: {len(names):,} columns; at most {MAX_COLUMNS:,} are read")
    return Form(names, delimiter, decimal, encoding, above + (not options.columns))


def _encoding(text: bytes, name: str) -> str:
    """UTF-8; UTF-16 where its mark says so; what Windows writes where it is neither."""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in text[:_HEAD]:
        raise DataError(f"{name}: holds null characters: no text; save it as CSV or Parquet")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _delimiter(lines: list[str]) -> str:
    """The sign that stands equally often in most lines; the more of it the better."""

    def fit(sign: str) -> tuple[float, int]:
        counts = [len(row) - 1 for row in csv.reader(lines, delimiter=sign)]
        if not counts or not counts[0]:
            return 0.0, 0
        return counts.count(counts[0]) / len(counts), counts[0]

    # A decimal comma also stands in every line, but not in the line of names.
    return max(_DELIMITERS, key=fit)


def _decimal(rows: list[list[str]], delimiter: str) -> str:
    """A comma where cells hold one and none holds a point."""
    if delimiter == ",":
        return "."
    cells = [cell.strip() for row in rows for cell in row]
    numbers = [cell for cell in cells if _NUMBER.fullmatch(cell)]
    commas = any(_DECIMAL_COMMA.fullmatch(cell) for cell in numbers)
    return "," if commas and not any("." in cell for cell in numbers) else "."


def _names(cells: list[str], name: str) -> tuple[str, ...]:
    """Return the line of names.

    Raises
    ------
    DataError
        Where it is none, or names one column twice.
    """
    names = [" ".join(cell.split()) for cell in cells]
    numbers = sum(bool(_NUMBER.fullmatch(cell)) for cell in names)
    if numbers * 2 > len(names):
        raise DataError(
            f"{name}: its first line holds numbers ({', '.join(names[:4])} …), no names; give the "
            "columns' names in data.options.columns"
        )
    for each in names:
        if each and names.count(each) > 1:
            raise DataError(f"{name}: two columns are named {each!r}; every one needs its own name")
    return tuple(names)
