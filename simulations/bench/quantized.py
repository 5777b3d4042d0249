"""What quantizing costs: macro-F1 of every person of finished runs, by quantizer and bits."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from edge_kernels.quantize.quantizer import names
from schemas.base import ConfigError
from simulations.bench.cells import Cell, Cells, Key
from simulations.export import Export, Form, Starts, quantized, score, usual_form
from simulations.personal_model import Models, open_models
from simulations.ranges import FederatedRanges, Histograms, Ranges
from simulations.report.metrics import mean

QUANTIZERS: Final = ("rtn", "smoothquant", "mobilequant", "distilled")
BITS: Final = (8, 4, 2)


class Row(BaseModel):
    """A quantizer at so many bits, with ranges of one kind, over all persons.

    Attributes
    ----------
    difference : float
        Mean of what is gained, negative where it is lost.
    worst, worst_person : float, str
        The largest loss, and whose.
    closer : float or None
        Share of round to nearest's loss at these bits and ranges that is gone; none where that
        lost nothing.
    """

    quantizer: str
    bits: int
    persons: int
    f1: float
    difference: float
    worst: float
    worst_person: str
    closer: float | None
    seconds: float
    bytes: int
    ranges: Ranges = "sources"


def study(
    runs: Sequence[Path],
    quantizers: Sequence[str] = QUANTIZERS,
    bits: Sequence[int] = BITS,
    *,
    form: Form | None = None,
    only: Sequence[str] = (),
    ranges: Sequence[Ranges] = ("sources",),
    noise: float = 0.0,
    kept: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Cell]:
    """Quantize every person's model in every way and test it.

    Parameters
    ----------
    runs : Sequence[Path]
        Folders of finished runs: as many seeds, say.
    quantizers, bits
    form : {"edge", "lookup", "qdq"}, optional
        What is run: integers by one operator, lookup kernels, or plain ONNX; the usual one of so
        many bits if left out.
    only : Sequence[str]
        These persons; all if empty.
    ranges : sequence of {"sources", "federated"}
    noise : float
        On the histograms of federated ranges; see ``simulations.ranges.Histograms``.
    kept : Path, optional
        A line of JSON a cell as it comes; what is there already is not done again.
    tell : callable
        Takes a line for whoever watches.

    Raises
    ------
    ConfigError
        Where a quantizer is not installed or ``kept`` is a folder; before anything is computed.
    RunError
        Where a run or ``kept`` cannot be read or written.
    """
    _check(quantizers, kept)
    wanted: list[Key] = [
        (name, width, each, form or usual_form(width), noise if each == "federated" else 0.0)
        for width, name, each in itertools.product(bits, quantizers, ranges)
    ]
    found = Cells(kept)
    for run in runs:
        with open_models(run, tell=tell) as models:
            federated = FederatedRanges(models, Histograms.with_noise(noise), tell)
            starts = Starts(models, tell)
            for person in only or models.persons:
                missing = [key for key in wanted if key not in found.of(run, person)]
                for cell in _cells(models, federated, starts, person, missing) if missing else ():
                    tell(
                        f"{run} {person} {cell.quantizer} W{cell.bits} {cell.ranges}: "
                        f"{cell.f1:.3f}, float {cell.f1_float:.3f}, {cell.seconds:.1f} s"
                    )
                    found.add(cell)
    asked = {str(run) for run in runs}
    return [
        cell
        for cell in found.all
        if cell.run in asked and cell.key in wanted and (not only or cell.person in only)
    ]


def _check(quantizers: Sequence[str], kept: Path | None) -> None:
    known = names()
    problems = [
        f"--quantizer {name}: not installed; there are {', '.join(known)}"
        for name in quantizers
        if name not in known
    ]
    if kept is not None and kept.is_dir():
        problems.append(f"--out {kept}: is a folder; name a file")
    if problems:
        raise ConfigError("quantized", problems)


def _cells(
    models: Models,
    federated: FederatedRanges,
    starts: Starts,
    person: str,
    keys: Sequence[Key],
) -> Iterator[Cell]:
    personal = models.personal(person)
    for key in keys:
        name, width, kind, form, noise = key
        given = federated.of(person) if kind == "federated" else None
        wanted = Export(bits=width, quantizer=name, form=form)
        start = starts.of(wanted)  # once a run: it is not in a model's seconds
        began = time.perf_counter()
        model = quantized(personal.model, personal.sources, wanted, given, start)
        seconds = time.perf_counter() - began
        yield Cell(
            run=str(models.run),
            person=person,
            seen=person in models.world.persons.values(),
            quantizer=name,
            bits=width,
            f1=score(personal, form, model),
            f1_float=personal.macro_f1,
            seconds=seconds,
            bytes=len(model),
            ranges=kind,
            form=form,
            noise=noise,
        )


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """Sum up by quantizer, bits and ranges, in the order in which they came."""
    groups: dict[tuple[int, str, Ranges], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.bits, cell.quantizer, cell.ranges), []).append(cell)
    nearest = {
        (bits, ranges): _difference(group)
        for (bits, name, ranges), group in groups.items()
        if name == "rtn"
    }
    return [_row(group, nearest.get((bits, ranges))) for (bits, _, ranges), group in groups.items()]


def _row(group: Sequence[Cell], nearest: float | None) -> Row:
    worst = min(group, key=lambda cell: cell.f1 - cell.f1_float)
    difference = _difference(group)
    lost = nearest is not None and nearest < 0
    return Row(
        quantizer=group[0].quantizer,
        bits=group[0].bits,
        ranges=group[0].ranges,
        persons=len(group),
        f1=mean(cell.f1 for cell in group),
        difference=difference,
        worst=worst.f1 - worst.f1_float,
        worst_person=worst.person,
        closer=1 - difference / nearest if lost and nearest else None,
        seconds=mean(cell.seconds for cell in group),
        bytes=round(mean(cell.bytes for cell in group)),
    )


def _difference(group: Sequence[Cell]) -> float:
    return mean(cell.f1 - cell.f1_float for cell in group)


_HEAD: Final = ("to float", "worst person", "of rtn's loss", "s", "kB")


def lines_of(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """A head and the rows, the float models first."""
    floats = {(cell.run, cell.person): cell.f1_float for cell in cells}
    persons = f"{len(floats)} person{'s' * (len(floats) != 1)}"
    return [
        ("weights", "quantizer", f"macro-F1, {persons}", *_HEAD),
        ("float", "–", f"{mean(floats.values()):.3f}", *[""] * len(_HEAD)),
        *map(_line, rows_of(cells)),
    ]


def _line(row: Row) -> tuple[str, ...]:
    gone = "–" if row.closer is None or row.quantizer == "rtn" else f"{row.closer:+.0%} gone"
    name = row.quantizer if row.ranges == "sources" else f"{row.quantizer}, {row.ranges} ranges"
    return (
        *(f"W{row.bits}A8", name, f"{row.f1:.3f}", f"{row.difference:+.4f}"),
        *(f"{row.worst:+.3f} {row.worst_person}", gone),
        *(f"{row.seconds:.1f}", f"{row.bytes / 1e3:.0f}"),
    )
