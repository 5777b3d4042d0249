"""A sweep's one table, as CSV for programs and as Markdown for the README; its persons'."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from schemas.summary import MethodSummary


@dataclass(frozen=True)
class Cell:
    """One run: a method's label, the label fraction, the seed, and what came of it, by person."""

    method: str
    fraction: float
    seed: int
    summary: MethodSummary
    persons: Sequence[Mapping[str, Any]] = ()


def csv_of(cells: Iterable[Cell]) -> str:
    """One line a run."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        writer.writerow({name: of(cell) for name, of in _COLUMNS.items()})
    return stream.getvalue()


def persons_of(cells: Iterable[Cell]) -> bytes:
    """A run's ``persons.parquet``, of all runs: one row a run and person."""
    from simulations.report.tables import SWEEP_PERSONS, parquet

    rows = [
        {"method": cell.method, "label_fraction": cell.fraction, "seed": cell.seed, **person}
        for cell in cells
        for person in cell.persons
    ]
    return parquet(rows, SWEEP_PERSONS)


def _counted(counts: Iterable[int | None]) -> int | str:
    known = [count for count in counts if count is not None]
    return sum(known) if known else ""


def _unseen(cell: Cell) -> str:
    score = cell.summary.macro_f1.unseen
    return "" if score is None else f"{score:.4f}"


def _evaluation_seconds(cell: Cell) -> str:
    seconds = cell.summary.evaluation_seconds
    return "" if seconds is None else f"{seconds:.3f}"


_COLUMNS: Final[dict[str, Callable[[Cell], object]]] = {
    "method": lambda cell: cell.method,
    "strategy": lambda cell: cell.summary.strategy,
    "label_fraction": lambda cell: cell.fraction,
    "seed": lambda cell: cell.seed,
    "macro_f1": lambda cell: f"{cell.summary.macro_f1.mean:.4f}",
    "worst_decile": lambda cell: f"{cell.summary.macro_f1.worst_decile:.4f}",
    "unseen": _unseen,
    "bytes_down": lambda cell: round(cell.summary.bytes_per_participation.down),
    "bytes_up": lambda cell: round(cell.summary.bytes_per_participation.up),
    "rounds": lambda cell: cell.summary.rounds,
    "client_updates": lambda cell: cell.summary.client_updates,
    "device_seconds": lambda cell: f"{cell.summary.device_seconds:.3f}",
    "left_out": lambda cell: sum(len(reasons) for reasons in cell.summary.failures.values()),
    "asked": lambda cell: _counted(part.asked for part in cell.summary.days),
    "brought_back": lambda cell: _counted(part.back for part in cell.summary.days),
    "evaluation_seconds": _evaluation_seconds,
    "bytes_graphs": lambda cell: _counted([cell.summary.bytes_graphs]),
}


def markdown_of(cells: Sequence[Cell]) -> str:
    """A row a method, a column a label fraction: mean / worst tenth, ± deviation over seeds."""
    methods = list(dict.fromkeys(cell.method for cell in cells))
    fractions = sorted({cell.fraction for cell in cells})
    head = ["", *[_fraction(fraction) for fraction in fractions], "bytes down / up"]
    graphs = any(cell.summary.bytes_graphs is not None for cell in cells)
    head += ["graphs, once"] if graphs else []
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for method in methods:
        mine = [cell for cell in cells if cell.method == method]
        columns = [_scores([c for c in mine if c.fraction == f]) for f in fractions]
        label = " ".join(method.replace("|", "\\|").split())  # a bar would be a cell of its own
        last = [_bytes(mine), *([_graphs(mine)] if graphs else [])]
        lines.append("| " + " | ".join([label, *columns, *last]) + " |")
    return "\n".join(lines) + "\n"


def _fraction(fraction: float) -> str:
    return "no labels" if fraction == 0 else "all" if fraction == 1 else f"f = {fraction:g}"


def _scores(cells: Sequence[Cell]) -> str:
    if not cells:
        return "–"
    means = np.array([cell.summary.macro_f1.mean for cell in cells])
    worst = np.array([cell.summary.macro_f1.worst_decile for cell in cells])
    text = f"{_short(means.mean())} / {_short(worst.mean())}"
    if len(cells) == 1:
        return text
    return f"{text} ± {_short(means.std(ddof=1))} / {_short(worst.std(ddof=1))}"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _graphs(cells: Sequence[Cell]) -> str:
    known = [cell.summary.bytes_graphs for cell in cells]
    sizes = [size for size in known if size is not None]
    return f"{np.mean(sizes) / 1000:.0f} kB" if sizes else "–"


def _bytes(cells: Sequence[Cell]) -> str:
    down = np.mean([cell.summary.bytes_per_participation.down for cell in cells])
    up = np.mean([cell.summary.bytes_per_participation.up for cell in cells])
    return f"{down / 1000:.0f} kB / {up / 1000:.0f} kB"
