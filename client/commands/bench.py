"""``flwr-edge bench``: how fast this machine is, and what the daemon takes of it."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from client.commands import bench_model
from client.commands.output import Progress, emit, out_file

T = TypeVar("T")
# Of edge_kernels.bench.tables, which is not asked: to import it takes NumPy and ONNX Runtime.
FORMATS: Final = (*bench_model.FORMATS, "csv", "markdown")
_LARGEST: Final = 1 << 16
_MOST_THREADS: Final = 256

_KERNELS = """\
Time LutMatMul at 1 to 4 bits and ternary against ONNX Runtime's MatMul, DynamicQuantizeMatMul and
MatMulNBits, and against a streaming read of the same bytes: whole session.run calls, in one
process, in turns. Read the ratios, not the microseconds; on a machine that others use, see how far
the quartiles lie apart.
"""
_KERNELS_EPILOG = """\
examples:
  flwr-edge bench kernels --quick
  flwr-edge bench kernels --format json --out kernels.json
  flwr-edge bench kernels --shapes 4096x4096,11008x4096 --m 1 --threads 1
  FLWR_EDGE_ISA=avx2 flwr-edge bench kernels --m 1     another instruction set

The full run takes five to ten minutes and 3 GB of memory; it needs the extra flwr-edge[quantize].
"""
_ENCODER = """\
Time the simulations' encoder (three convolutions, pooling, a linear layer), fused to one operator,
against ONNX Runtime with float weights and with 8-bit QDQ: one window a call.
"""
_ENCODER_EPILOG = """\
examples:
  flwr-edge bench encoder
  flwr-edge bench encoder --bits 2,4 --threads 1 --format json
"""
_FOOTPRINT = """\
Start Mosquitto and the daemon, and measure: seconds from start to connected; resident memory of the
daemon and of the process that learns, idle and at its peak over three training tasks; bytes on disk
of flwr-edge and what it needs, without extras. Targets are printed beside the figures.

Without --plan the task is a step written by hand, of about the watch model's size: three
convolutions over windows of 150 x 6 with their gradients, 65,536 weights, 400 random windows. With
--plan it is a real one: a folder with plan.json, weights.npy, graphs/DIGEST.onnx (and .npy, of
constants that graphs share) and, where the person's own windows are to be used, windows/*.npy.
`flwr-sim device-plan` writes one.
"""
_FOOTPRINT_EPILOG = """\
examples:
  flwr-edge bench footprint
  flwr-edge bench footprint --plan watch --format json --out footprint.json

where the simulator is installed, for the folder watch:
  flwr-sim device-plan simulations/wearables.toml --out watch

Linux; needs Mosquitto, and without --plan the extra flwr-edge[quantize].
"""


def register(nouns: Any) -> None:
    """Add the command and its verbs."""
    noun = nouns.add_parser(
        "bench",
        help="measure the kernels, a whole small network, a bundle, or the daemon",
        description="Measure what this machine makes of low-bit weights and of bundles, and what\n"
        "the daemon takes of it.",
        epilog="examples:\n  flwr-edge bench kernels --quick\n  flwr-edge bench encoder\n"
        "  flwr-edge bench model ann.flwb --against ann.onnx\n  flwr-edge bench footprint\n",
    )
    verbs = noun.add_subparsers(metavar="WHAT", required=True)
    _add_kernels(verbs)
    _add_encoder(verbs)
    bench_model.add(verbs)
    _add_footprint(verbs)


def _add_kernels(verbs: Any) -> None:
    command = verbs.add_parser(
        "kernels",
        help="products with packed weights",
        description=_KERNELS,
        epilog=_KERNELS_EPILOG,
    )
    command.add_argument(
        "--shapes",
        type=_several(_shape),
        metavar="NxK,…",
        help="outputs x inputs of the weights; default 256x256,1024x1024,2048x2048,4096x4096,"
        "11008x4096 (11008 outputs)",
    )
    _add_bits(command)
    command.add_argument(
        "--groups",
        type=_several(_group),
        metavar="G,…",
        help="inputs that share a weight scale: 32, 64, 128 or row; default 64,row",
    )
    command.add_argument(
        "--m", type=_several(_count), metavar="M,…", help="rows of activations; default 1,4,16,128"
    )
    _add_common(command)
    command.set_defaults(run=run_kernels)


def _add_encoder(verbs: Any) -> None:
    command = verbs.add_parser(
        "encoder", help="a whole small network", description=_ENCODER, epilog=_ENCODER_EPILOG
    )
    _add_bits(command)
    _add_common(command)
    command.set_defaults(run=run_encoder)


def _add_footprint(verbs: Any) -> None:
    command = verbs.add_parser(
        "footprint",
        help="the daemon's memory, size and start",
        description=_FOOTPRINT,
        epilog=_FOOTPRINT_EPILOG,
    )
    command.add_argument("--plan", type=Path, metavar="FOLDER", help="what to learn")
    command.add_argument(
        "--format", choices=bench_model.FORMATS, default="table", help="default: table"
    )
    _add_output(command)
    command.set_defaults(run=run_footprint)


def _add_bits(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--bits",
        type=_several(_bits),
        metavar="B,…",
        help="of 1,2,3,4,ternary; default all",
        default=(1, 2, 3, 4, "ternary"),
    )


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--threads",
        type=_several(_threads),
        metavar="T,…",
        help="of a session; default 1,2 (1 where there is one core)",
    )
    command.add_argument("--quick", action="store_true", help="a rough look, under 30 seconds")
    command.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    _add_output(command)


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out", type=out_file, metavar="FILE", help="write it there, whole or not at all"
    )
    command.add_argument("--verbose", action="store_true", help="say what is being measured")


def run_kernels(arguments: argparse.Namespace) -> None:
    """Measure, then print or write."""
    from edge_kernels.bench.kernels import Sizes, measure
    from edge_kernels.bench.tables import rendered
    from edge_kernels.bench.timing import FULL, QUICK

    quick = arguments.quick
    few = ((256, 256), (1024, 1024), (4096, 4096))
    all_ = ((256, 256), (1024, 1024), (2048, 2048), (4096, 4096), (11008, 4096))
    sizes = Sizes(
        shapes=arguments.shapes or (few if quick else all_),
        bits=arguments.bits,
        groups=arguments.groups or ((64,) if quick else (64, 0)),
        m=arguments.m or ((1, 16) if quick else (1, 4, 16, 128)),
        threads=arguments.threads or ((1,) if quick else _default_threads()),
    )
    progress = Progress(verbose=arguments.verbose)
    try:
        report = measure(sizes, QUICK if quick else FULL, progress)
    finally:
        progress.close()
    emit(rendered(report, arguments.format), arguments.out)


def run_encoder(arguments: argparse.Namespace) -> None:
    """Measure, then print or write."""
    from edge_kernels.bench.encoder import measure
    from edge_kernels.bench.tables import rendered
    from edge_kernels.bench.timing import FULL, QUICK

    quick = arguments.quick
    threads = arguments.threads or ((1,) if quick else _default_threads())
    progress = Progress(verbose=arguments.verbose)
    try:
        report = measure(arguments.bits, threads, QUICK if quick else FULL, progress)
    finally:
        progress.close()
    emit(rendered(report, arguments.format), arguments.out)


def run_footprint(arguments: argparse.Namespace) -> None:
    """Measure, then print or write."""
    from client.footprint import measure
    from client.footprint_plan import Measured, by_hand
    from client.footprint_table import rendered

    measured = by_hand() if arguments.plan is None else Measured.open(arguments.plan)
    progress = Progress(verbose=arguments.verbose)
    try:
        report = measure(measured, progress)
    finally:
        progress.close()
    emit(rendered(report, arguments.format), arguments.out)


def _default_threads() -> tuple[int, ...]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (1, 2) if (cores or 1) > 1 else (1,)


def _several(one: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Parse a list with commas; a value that stands twice counts once."""

    def parse(text: str) -> tuple[T, ...]:
        return tuple(dict.fromkeys(one(part.strip()) for part in text.split(",")))

    return parse


def _shape(text: str) -> tuple[int, int]:
    n, by, k = text.lower().partition("x")
    if not by:
        raise argparse.ArgumentTypeError(f"{text!r}: expected outputs x inputs, as in 11008x4096")
    return _count(n), _count(k)


def _count(text: str, largest: int = _LARGEST) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= value <= largest:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 to {largest}")
    return value


def _threads(text: str) -> int:
    return _count(text, _MOST_THREADS)


def _bits(text: str) -> int | str:
    known: dict[str, int | str] = {"1": 1, "2": 2, "3": 3, "4": 4, "ternary": "ternary"}
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {', '.join(known)}")
    return known[text]


def _group(text: str) -> int:
    known = {"32": 32, "64": 64, "128": 128, "row": 0}
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {', '.join(known)}")
    return known[text]
