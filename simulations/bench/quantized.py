"""What quantizing costs: macro-F1 of every person of finished runs, by quantizer and bits."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from edge_kernels.quantize.histogram import Range
from simulations.export import Export, Form, quantized, score, usual_form
from simulations.personal_model import Personal, open_models
from simulations.ranges import FederatedRanges, Histograms, Ranges
from simulations.report.metrics import mean

QUANTIZERS: Final = ("rtn", "smoothquant", "mobilequant", "distilled")
BITS: Final = (8, 4, 2)


class Cell(BaseModel):
    """One person's model, quantized once.

    Attributes
    ----------
    ranges : {"sources", "federated"}
        Where activations' ranges come from; federated are the other clients' histograms'.
    f1, f1_float : float
        Macro-F1 of the exported graph in ONNX Runtime, and of the float model.
    seconds : float
        That quantizing took.
    bytes : int
        Of the exported graph, not yet compressed.
    """

    run: str
    person: str
    seen: bool
    quantizer: str
    bits: int
    f1: float
    f1_float: float
    seconds: float
    bytes: int
    ranges: Ranges = "sources"


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
    tell : callable
        Takes a line for whoever watches.
    """
    cells = []
    for run in runs:
        with open_models(run, tell=tell) as models:
            federated = FederatedRanges(models, Histograms.with_noise(noise), tell)
            for person in only or models.persons:
                personal = models.personal(person)
                seen = person in models.world.persons.values()
                found = {each: _ranges(federated, person, each) for each in ranges}
                for cell in _cells(run, personal, quantizers, bits, form, found, seen=seen):
                    tell(
                        f"{run} {person} {cell.quantizer} W{cell.bits} {cell.ranges}: "
                        f"{cell.f1:.3f}, float {cell.f1_float:.3f}, {cell.seconds:.1f} s"
                    )
                    cells.append(cell)
    return cells


_Given = dict[Ranges, list[Range] | None]


def _ranges(federated: FederatedRanges, person: str, wanted: Ranges) -> list[Range] | None:
    """A person's; none where quantizers take the sources' windows'."""
    return federated.of(person) if wanted == "federated" else None


def _cells(
    run: Path,
    personal: Personal,
    quantizers: Sequence[str],
    bits: Sequence[int],
    form: Form | None,
    ranges: _Given,
    *,
    seen: bool,
) -> Iterator[Cell]:
    for width, name, (kind, given) in itertools.product(bits, quantizers, ranges.items()):
        wanted = Export(bits=width, quantizer=name, form=form or usual_form(width))
        began = time.perf_counter()
        model = quantized(personal.model, personal.sources, wanted, given)
        seconds = time.perf_counter() - began
        yield Cell(
            run=str(run),
            person=personal.person,
            seen=seen,
            quantizer=name,
            bits=width,
            f1=score(personal, wanted.form, model),
            f1_float=personal.macro_f1,
            seconds=seconds,
            bytes=len(model),
            ranges=kind,
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


def markdown(cells: Sequence[Cell]) -> str:
    """The rows as a table, the float models first."""
    floats = {(cell.run, cell.person): cell.f1_float for cell in cells}
    lines = [
        "| weights | quantizer | macro-F1 | to float | worst person | of rtn's loss | s | kB |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |",
        f"| float | – | {mean(floats.values()):.3f} | | {len(floats)} persons | | | |",
    ]
    lines += [_line(row) for row in rows_of(cells)]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    gone = "–" if row.closer is None or row.quantizer == "rtn" else f"{row.closer:+.0%} gone"
    name = row.quantizer if row.ranges == "sources" else f"{row.quantizer}, {row.ranges} ranges"
    return (
        f"| W{row.bits}A8 | {name} | {row.f1:.3f} | {row.difference:+.4f} | "
        f"{row.worst:+.3f} {row.worst_person} | {gone} | "
        f"{row.seconds:.1f} | {row.bytes / 1e3:.0f} |"
    )
