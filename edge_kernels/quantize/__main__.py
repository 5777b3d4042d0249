"""``python -m edge_kernels.quantize``: round a model to nearest, and say what became of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_kernels.quantize.files import save
from edge_kernels.quantize.report import Report
from edge_kernels.quantize.rtn import rtn

_EPILOG = """\
examples:
  python -m edge_kernels.quantize model.onnx --bits 4 --out model.lut.onnx
  python -m edge_kernels.quantize model.onnx --bits 2 --ternary --out model.lut.onnx
  python -m edge_kernels.quantize model.onnx --bits 3 --zero-points --group 32 \\
      --skip 'head*' --out model.lut.onnx

The table names each product, what runs it (or why it stays in float), the relative error of its
weights and its bytes before and after. Run the result with edge_kernels.session("model.lut.onnx").
An error of 0.1 (about what 4 bits give) is usually harmless; 0.35 (2 bits) and 0.6 (1 bit) call
for a model that was trained or calibrated for it. --fake measures that on any runtime.

exit codes: 0 written; 2 the model or an option is wrong, and nothing is written.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : list of str, optional
        Without the program's name; the process's own by default.

    Returns
    -------
    int
        Exit code: 0, or 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    report = Report()
    try:
        model = rtn(
            options.model,
            bits=options.bits,
            group=options.group,
            ternary=options.ternary,
            symmetric=not options.zero_points,
            skip=options.skip,
            gain=options.gain,
            fast=options.fast,
            fake=options.fake,
            report=report,
        )
        save(model, options.out)
    except (ImportError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{report}\n")
    if not report.served:
        sys.stderr.write("warning: no layer is served; the model is as it was\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edge_kernels.quantize",
        description="Round an ONNX model's weights to 1 to 4 bits, for the kernels of flwr.edge.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a float32 ONNX model, opset 13 or newer")
    parser.add_argument("--out", type=Path, required=True, help="where to write the result")
    parser.add_argument(
        "--bits", type=int, choices=(1, 2, 3, 4), required=True, help="bits of a weight"
    )
    parser.add_argument(
        "--group",
        type=int,
        choices=(0, 32, 64, 128),
        default=64,
        help="inputs that share a scale; 0: a whole row (default: 64)",
    )
    parser.add_argument("--ternary", action="store_true", help="weights -s, 0, s; with --bits 2")
    parser.add_argument("--zero-points", action="store_true", help="a zero point beside each scale")
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="a node, or its output, that stays in float; may hold * and ?; may be repeated",
    )
    parser.add_argument(
        "--gain",
        type=float,
        default=2.0,
        help="leave a layer in float unless it shrinks this many times (default: 2)",
    )
    parser.add_argument("--fast", action="store_true", help="7-bit tables: faster, less exact")
    parser.add_argument(
        "--fake",
        action="store_true",
        help="keep ONNX's operators, with the rounded weights as float32",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
