"""Reports as text: for a terminal, a README, a spreadsheet or a program."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from schemas.bench import EncoderReport, EncoderRow, KernelReport, KernelRow

Cells = Sequence[str]
Report = KernelReport | EncoderReport


def rendered(report: Report, style: str) -> str:
    """Return the report as ``table``, ``json``, ``csv`` or ``markdown``, ending in a newline."""
    if style == "json":
        return report.model_dump_json(indent=2) + "\n"
    if style == "csv":
        return _csv(report)
    draw = _markdown if style == "markdown" else _plain
    return "\n".join(_parts(report, draw)) + "\n"


Draw = Callable[[Cells, Iterable[Cells]], str]


def _parts(report: Report, draw: Draw) -> list[str]:
    if isinstance(report, KernelReport):
        parts = [draw(_KERNEL, map(_kernel_cells, report.rows))]
        parts += ["", "The same calls by ONNX Runtime, microseconds:", "", _rivals(report, draw)]
        parts += [f"left out: {name}: {why}" for name, why in report.left_out.items()]
    else:
        names = sorted({name for row in report.rows for name in row.rivals})
        parts = [draw(_encoder_head(names), (_encoder_cells(row, names) for row in report.rows))]
    where, what = report.machine, report.versions
    load = "" if where.load is None else f", load {where.load:.1f} before"
    about = (
        f"{where.cpu}, {where.cores} cores, {where.isa}{load}; "
        f"flwr-edge {what.flwr_edge}, onnxruntime {what.onnxruntime}, Python {what.python}"
    )
    return [*parts, "", about]


_KERNEL: Final = (
    *("outputs x inputs", "rows", "threads", "bits", "group", "tables"),
    *("us", "quartiles", "floor us", "of floor", "best rival", "us", "speed-up", "error"),
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


def _encoder_head(names: Sequence[str]) -> Cells:
    head = ["bits", "threads", "us", "quartiles"]
    for name in names:
        head += [f"{name} us", "speed-up"]
    return (*head, "error")


def _encoder_cells(row: EncoderRow, names: Sequence[str]) -> Cells:
    cells = [str(row.bits), str(row.threads), _number(row.microseconds)]
    cells.append("–".join(map(_number, row.spread)))
    for name in names:
        cells += [_number(row.rivals[name]), f"{row.speedup_over[name]:.2f}"]
    return (*cells, f"{row.relative_rms_error:.1e}")


def _number(value: float) -> str:
    """Three digits at least."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _plain(head: Cells, rows: Iterable[Cells]) -> str:
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _markdown(head: Cells, rows: Iterable[Cells]) -> str:
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
