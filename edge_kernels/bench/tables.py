"""Reports as text: for a terminal, a README, a spreadsheet or a program."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from schemas.bench import Bits, EncoderReport, EncoderRow, KernelReport, KernelRow

Cells = Sequence[str]
Report = KernelReport | EncoderReport


def rendered(report: Report, style: str) -> str:
    """Return the report as ``table``, ``json``, ``csv`` or ``markdown``, ending in a newline."""
    if style == "json":
        return report.model_dump_json(indent=2) + "\n"
    if style == "csv":
        return _csv(report)
    draw = markdown if style == "markdown" else plain
    return "\n".join(_parts(report, draw)) + "\n"


Draw = Callable[[Cells, Iterable[Cells]], str]


def _parts(report: Report, draw: Draw) -> list[str]:
    if isinstance(report, KernelReport):
        parts = [draw(_KERNEL, map(_kernel_cells, report.rows))]
        parts += ["", "The same calls by ONNX Runtime, microseconds:", "", _rivals(report, draw)]
        parts += [f"left out: {name}: {why}" for name, why in report.left_out.items()]
        parts += ["", _PLAIN_RUN, _error(KernelRow)]
    else:
        parts = [draw(_ENCODER, map(_encoder_cells, report.rows)), "", _PLAIN_US]
        parts += ["", _BESIDE, "", _beside(report.rows, draw), "", _error(EncoderRow)]
    where, what = report.machine, report.versions
    load = "" if where.load is None else f", load {where.load:.1f} before"
    about = (
        f"{where.cpu}, {where.cores} cores, {where.isa}{load}; "
        f"flwr-edge {what.flwr_edge}, onnxruntime {what.onnxruntime}, Python {what.python}"
    )
    return [*parts, "", about]


def _error(row: type[KernelRow | EncoderRow]) -> str:
    against = row.model_fields["relative_rms_error"].description or ""
    return f"error: relative RMS, {against[:1].lower()}{against[1:]}"


_KERNEL: Final = (
    *("outputs x inputs", "rows", "threads", "bits", "group", "tables"),
    *("us", "quartiles", "floor us", "of floor"),
    *("best rival", "us", "speed-up", "plain run", "error"),
)


def _kernel_cells(row: KernelRow) -> Cells:
    best = row.best_rival
    return (
        *_place(row),
        str(row.bits),
        _group(row.group),
        "7-bit" if row.fast else "exact",
        _number(row.microseconds),
        "–".join(map(_number, row.spread)),
        _number(row.floor_microseconds),
        f"{row.ratio_to_floor:.2f}",
        best or "none",
        _number(row.rivals[best]) if best else "",
        f"{row.speedup_over_best_rival:.2f}" if row.speedup_over_best_rival else "",
        f"{row.plain_run_speedup:.2f}" if row.plain_run_speedup else "",
        f"{row.relative_rms_error:.1e}",
    )


def _place(row: KernelRow) -> Cells:
    return f"{row.n}x{row.k}", str(row.m), str(row.threads)


def _group(group: int) -> str:
    return str(group) if group else "row"


def _rivals(report: KernelReport, draw: Draw) -> str:
    names = list(dict.fromkeys(name for row in report.rows for name in row.rivals))
    lines: dict[tuple[str, ...], Mapping[str, float]] = {}
    for row in report.rows:
        lines[*_place(row), _group(row.group)] = row.rivals
    cells = (
        (*place, *(_number(rivals[name]) if name in rivals else "" for name in names))
        for place, rivals in lines.items()
    )
    return draw(("outputs x inputs", "rows", "threads", "group", *names), cells)


_PLAIN_RUN: Final = "plain run: the speed-up where ours too is called by ONNX Runtime's own run"
_PLAIN_US: Final = "plain us: ours by ONNX Runtime's own run, as the rivals are called"
_ENCODER: Final = ("bits", "threads", "us", "quartiles", "plain us", "error")
_BESIDE: Final = (
    "The same window by ONNX Runtime, microseconds, and how many times as fast we are, by bits:"
)


def _encoder_cells(row: EncoderRow) -> Cells:
    spread = "–".join(map(_number, row.spread))
    place = (str(row.bits), str(row.threads), _number(row.microseconds), spread)
    return (*place, _number(row.plain_run_microseconds), f"{row.relative_rms_error:.1e}")


def _beside(rows: Sequence[EncoderRow], draw: Draw) -> str:
    """Rivals are as fast whatever our bits are: a row each, a column our bits."""
    bits = list(dict.fromkeys(row.bits for row in rows))
    speedups: dict[tuple[str, ...], dict[Bits, str]] = {}
    for row in rows:
        for name, microseconds in row.rivals.items():
            place = (name, str(row.threads), _number(microseconds))
            speedups.setdefault(place, {})[row.bits] = f"{row.speedup_over[name]:.2f}"
    cells = ((*place, *(found.get(each, "") for each in bits)) for place, found in speedups.items())
    return draw(("ONNX Runtime", "threads", "us", *map(str, bits)), cells)


def _number(value: float) -> str:
    """Three digits at least."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def plain(head: Cells, rows: Iterable[Cells]) -> str:
    """Columns for a terminal."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def markdown(head: Cells, rows: Iterable[Cells]) -> str:
    """A table for a document."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_KEYS: Final = ("m", "k", "n", "batch", "bits", "group", "threads", "isa", "fast")


def _csv(report: Report) -> str:
    """One line a row; nested fields get a column each, named with a dot."""
    flat = [_flat(row.model_dump()) for row in report.rows]
    found = dict.fromkeys(column for line in flat for column in line)
    columns = [*(key for key in _KEYS if key in found), *(key for key in found if key not in _KEYS)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, tuple):
            flat |= {f"{prefix}{key}.q1": value[0], f"{prefix}{key}.q3": value[1]}
        else:
            flat[prefix + key] = value
    return flat
