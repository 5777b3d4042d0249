"""``flwr-edge bench model``: a bundle against the same model in float and in QDQ int8."""

import argparse
from pathlib import Path
from typing import Any, Final

from client.commands.bundle import add_bundle, open_or_refuse, opened
from client.commands.output import Progress, emit, out_file

FORMATS: Final = ("table", "json")
_DESCRIPTION: Final = """\
Compare a bundle with the float ONNX model that it was made from (--against) and with the same model
as a QDQ int8 bundle (--qdq): latency of one window on one thread, whole session.run calls in turns;
memory of a fresh process; bytes of the files; macro-F1 on the same labelled windows (--windows).
What is not given is not compared. Read the ratios, not the microseconds.

Windows: an .npz with X (windows, time, channels) and y (class indices, -1: none), or windows and
labels, and where they are known hz and classes; or a person's folder with test.npy and
test_labels.npy.
"""
_EPILOG: Final = """\
examples:
  flwr-edge bench model ann.flwb
  flwr-edge bench model ann.flwb --against ann.onnx --windows ann.npz
  flwr-edge bench model ann.flwb --qdq ann-qdq.flwb --format json --out ann.json

JSON has f1, f1_float, f1_qdq, speedup_over_fp32, speedup_over_qdq, bytes, bytes_float, bytes_qdq,
memory, memory_float, memory_qdq, …: null where not given; lies: what takes far more than the
bundle's manifest says.
"""


def add(verbs: Any) -> None:
    """Add the verb."""
    command = verbs.add_parser(
        "model", help="a bundle against fp32 and QDQ", description=_DESCRIPTION, epilog=_EPILOG
    )
    add_bundle(command)
    command.add_argument(
        "--against", type=Path, metavar="FILE.onnx", help="the float model, plain ONNX"
    )
    command.add_argument(
        "--qdq", type=Path, metavar="BUNDLE", help="the same model as a bundle of form qdq"
    )
    command.add_argument(
        "--qdq-base", type=Path, metavar="FILE", help="where --qdq is a difference: its base"
    )
    command.add_argument("--windows", type=Path, metavar="FILE.npz|FOLDER", help="labelled windows")
    command.add_argument("--quick", action="store_true", help="a rough look")
    command.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    command.add_argument(
        "--out", type=out_file, metavar="FILE", help="write it there, whole or not at all"
    )
    command.add_argument("--verbose", action="store_true", help="say what is being measured")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Open and check everything, then measure."""
    bundle = opened(arguments)
    from client.bundle import compare
    from client.bundle.windows import read_labelled
    from edge_kernels.bench.timing import FULL, QUICK

    card = bundle.manifest
    labelled = None if arguments.windows is None else read_labelled(arguments.windows, card)
    contenders = {compare.OURS: compare.of_bundle(bundle)}
    if arguments.against is not None:
        contenders[compare.FLOAT] = compare.of_float(arguments.against, card)
    if arguments.qdq is not None:
        other = open_or_refuse(arguments.qdq, None, arguments.qdq_base)
        compare.check_alike(bundle, other)
        contenders[compare.QDQ] = compare.of_bundle(other)
    progress = Progress(verbose=arguments.verbose)
    try:
        effort = QUICK if arguments.quick else FULL
        report = compare.measure(bundle, contenders, labelled, effort, progress)
    finally:
        progress.close()
    emit(compare.rendered(report, arguments.format), arguments.out)
