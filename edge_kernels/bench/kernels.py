"""LutMatMul beside ONNX Runtime's products and the memory floor."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime

from edge_kernels.bench.machine import machine, versions
from edge_kernels.bench.rivals import RIVALS, Rival, absent, best_of
from edge_kernels.bench.sessions import our_session, rival_session
from edge_kernels.bench.stream import stream
from edge_kernels.bench.timing import Effort, Timing, Turn, calls_of, take_turns, turn_of
from edge_kernels.bench.weights import Floats, Weights, relative_rms
from edge_kernels.layout import Shape
from schemas.bench import Bits, KernelReport, KernelRow, Machine

LOOKUP_ROWS: Final = 4  # rows of activations up to which tables, and so the fast mode, may be used
_CHECKED: Final = 16  # rows of activations whose error is taken
_WRONG: Final = 0.1  # relative RMS error that no rounding explains: such a time means nothing

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """What to measure.

    Attributes
    ----------
    shapes
        (N, K): outputs and inputs.
    bits, groups, m, threads
        Of the weights; rows of activations; threads of a session.
    """

    shapes: tuple[tuple[int, int], ...]
    bits: tuple[Bits, ...]
    groups: tuple[int, ...]
    m: tuple[int, ...]
    threads: tuple[int, ...]


@dataclass(frozen=True)
class _Ours:
    bits: Bits
    shape: Shape
    streamed: int  # bytes of codes and scales
    fast: bool
    exact: Floats  # the float product with the first rows of activations
    graph: bytes


@dataclass(frozen=True)
class _Theirs:
    rival: Rival
    group: int | None  # None: any
    graph: bytes


def measure(sizes: Sizes, effort: Effort, say: Say = lambda _: None) -> KernelReport:
    """Time every product of the sizes, in one process.

    Measured is the whole ``session.run(None, {"x": x})`` from Python, as a user pays it: the call,
    the copy of the output, quantizing the activations, the lookup tables, the product. Rivals are
    called by ``onnxruntime.InferenceSession.run``, ours by the `run` of `edge_kernels.session`,
    which costs less, and once more as the rivals are (``plain_run_microseconds``). All contenders
    of a shape, a number of rows and a number of threads are timed in the same rounds,
    one after the other (`take_turns`), on the same activations; each has a session of its own of
    as many threads. ONNX Runtime's weights are constant, so that it packs them beforehand, and
    ``accuracy_level`` is 4. The floor reads a buffer of as many bytes as the weights and their
    scales, once a call, from wherever a buffer of that size lies after six calls: at most sizes a
    cache, as do the weights.

    Not measured: weights that other work has driven out of the caches, batches of other sizes,
    other processes' share of the machine (see the spread), energy.

    Parameters
    ----------
    sizes
        All combinations of these.
    effort
        How long.
    say
        Is told what is being done, a line at a time.

    Returns
    -------
    KernelReport
        A row a product of ours: fast mode only where tables are used, at 1 to 3 bits and few rows.

    Raises
    ------
    RuntimeError
        If a product of ours is wrong.
    """
    random = np.random.default_rng(0)
    bench = _Bench(sizes, effort, say, machine())
    rows = [row for n, k in sizes.shapes for row in bench.shape(n, k, random)]
    return KernelReport(
        machine=bench.machine, versions=versions(), rows=rows, left_out=bench.left_out
    )


class _Bench:
    def __init__(self, sizes: Sizes, effort: Effort, say: Say, where: Machine) -> None:
        self.sizes = sizes
        self.effort = effort
        self.say = say
        self.machine = where
        self.left_out: dict[str, str] = {}

    def shape(self, n: int, k: int, random: np.random.Generator) -> Iterator[KernelRow]:
        self.say(f"{n}x{k}: making weights")
        x = random.standard_normal((max(self.sizes.m), k), dtype=np.float32)
        ours = list(self._ours(n, k, x[:_CHECKED], random))
        theirs = list(self._theirs(n, k, random))
        for threads in self.sizes.threads:
            self.say(f"{n}x{k}: making sessions of {threads} threads")
            cell = _Cell(ours, self._open(theirs, threads), threads, self.machine.isa)
            for m in self.sizes.m:
                self.say(f"{n}x{k}, {m} rows, {threads} threads")
                yield from cell.rows(np.ascontiguousarray(x[:m]), self.effort)

    def _ours(self, n: int, k: int, x: Floats, random: np.random.Generator) -> Iterator[_Ours]:
        for group in self.sizes.groups:
            for bits in self.sizes.bits:
                weights = Weights.random(n, k, bits, group, random)
                exact = weights.float_product(x)
                for fast in (False, True) if weights.shape.bits < 4 else (False,):
                    graph = weights.graph(fast=fast)
                    yield _Ours(bits, weights.shape, weights.streamed, fast, exact, graph)

    def _theirs(self, n: int, k: int, random: np.random.Generator) -> Iterator[_Theirs]:
        for rival in RIVALS:
            if why := absent(rival):
                self.left_out[rival.name] = why
                continue
            for group in self.sizes.groups if rival.grouped else (None,):
                yield _Theirs(rival, group, rival.graph(k, n, group or 0, random))

    def _open(
        self, theirs: list[_Theirs], threads: int
    ) -> dict[tuple[str, int | None], onnxruntime.InferenceSession]:
        sessions = {}
        for each in theirs:
            try:
                session = rival_session(each.rival, each.graph, threads)
            except Exception as error:  # noqa: BLE001  ONNX Runtime's errors share no public base
                self.left_out[each.rival.name] = str(error).splitlines()[0]
                continue
            sessions[each.rival.name, each.group] = session
        return sessions


class _Cell:
    """Contenders of one shape and number of threads."""

    def __init__(
        self,
        ours: list[_Ours],
        theirs: Mapping[tuple[str, int | None], onnxruntime.InferenceSession],
        threads: int,
        isa: str,
    ) -> None:
        self.ours = ours
        self.sessions = [our_session(each.graph, threads) for each in ours]
        self.theirs = theirs
        self.threads = threads
        self.isa = isa

    def rows(self, x: Floats, effort: Effort) -> Iterator[KernelRow]:
        """Time all of them on activations (m, K)."""
        feed = {"x": x}
        present = [i for i, each in enumerate(self.ours) if len(x) <= LOOKUP_ROWS or not each.fast]
        contenders: dict[Any, Turn] = {}
        for i in present:
            contenders["ours", i], contenders["plain", i] = calls_of(self.sessions[i], feed)
            size = self.ours[i].streamed
            contenders["floor", size] = stream(size, self.threads)
        for key, session in self.theirs.items():
            contenders["theirs", key] = _call(session, feed)
        timings = take_turns(contenders, effort, quiet=self.threads > 1)
        for i in present:
            yield self._row(i, x, timings)

    def _row(self, i: int, x: Floats, timings: Mapping[Any, Timing]) -> KernelRow:
        ours = self.ours[i]
        shape = ours.shape
        mine, plain = timings["ours", i], timings["plain", i]
        floor = timings["floor", ours.streamed]
        rivals = {
            name: timings["theirs", (name, group)]
            for name, group in self.theirs
            if group in (None, shape.group)
        }
        medians = {name: timing.median for name, timing in rivals.items()}
        best = best_of(ours.bits, medians)
        (y,) = self.sessions[i].run(None, {"x": x})
        error = relative_rms(y[:_CHECKED], ours.exact[: len(x)])
        if not error < _WRONG:
            raise RuntimeError(
                f"LutMatMul ({self.isa}, {len(x)} rows, {shape}, fast={ours.fast}) is wrong: "
                f"relative RMS error {error:.2g} against the float product"
            )
        return KernelRow(
            m=len(x),
            k=shape.inputs,
            n=shape.rows,
            bits=ours.bits,
            group=shape.group,
            threads=self.threads,
            isa=self.isa,
            fast=ours.fast,
            microseconds=mine.median,
            spread=mine.quartiles,
            plain_run_microseconds=plain.median,
            rivals=medians,
            rivals_spread={name: timing.quartiles for name, timing in rivals.items()},
            best_rival=best,
            speedup_over_best_rival=medians[best] / mine.median if best else None,
            plain_run_speedup=medians[best] / plain.median if best else None,
            floor_microseconds=floor.median,
            floor_spread=floor.quartiles,
            ratio_to_floor=mine.median / floor.median,
            relative_rms_error=error,
        )


def _call(session: onnxruntime.InferenceSession, feed: dict[str, Floats]) -> Turn:
    run = session.run
    return turn_of(lambda: run(None, feed))
