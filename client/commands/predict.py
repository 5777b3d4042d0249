"""``flwr-edge run BUNDLE``: predicts windows of a file, or of a sensor as they come."""

import argparse
import contextlib
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from client.commands.bundle import opened
from client.files import read_plain
from schemas.base import ConfigError
from schemas.toml_file import parsed

if TYPE_CHECKING:
    from client.bundle.predictor import Floats

_MOST: Final = 1 << 53


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what says which windows, and how predictions are written."""
    command.add_argument(
        "--input",
        type=Path,
        metavar="FILE.npy",
        help="windows (count, time, channels), float32; or an .npz that has them as X, windows or "
        "test",
    )
    command.add_argument(
        "--source", metavar="NAME", help="a live sensor: one of flwr_edge.sensor_source"
    )
    command.add_argument(
        "--settings", type=Path, metavar="FILE.toml", help="the sensor's; time and channels are"
        " the bundle's where they are left out",
    )  # fmt: skip
    command.add_argument(
        "--count", type=_count, metavar="N", help="of the sensor: end after so many windows"
    )
    command.add_argument(
        "--hz", type=_rate, metavar="HZ", help="the windows' rate: another than the bundle's is "
        "refused",
    )  # fmt: skip
    command.add_argument(
        "--format",
        choices=("table", "json", "csv"),
        default="table",
        help="default: table; json is an object a line",
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    problems = []
    if (arguments.input is None) == (arguments.source is None):
        problems.append("expected --input FILE.npy or --source NAME with a bundle: one of them")
    problems += [
        f"--{name} goes with --source only"
        for name in ("settings", "count")
        if arguments.source is None and getattr(arguments, name) is not None
    ]
    if problems:
        raise ConfigError("run", problems)


def run(arguments: argparse.Namespace) -> None:
    """Open the bundle, check the windows, load the model, predict."""
    check_options(arguments)
    if arguments.source is None:
        _run_file(arguments)
    else:
        _run_live(arguments)


def _run_file(arguments: argparse.Namespace) -> None:
    bundle = opened(arguments)
    from client.bundle.predictor import NotFiniteError, Predictor
    from client.bundle.windows import read_windows

    windows = read_windows(arguments.input, bundle.manifest, arguments.hz)
    try:
        logits = Predictor(bundle).logits(windows)
    except NotFiniteError as error:
        raise NotFiniteError(f"{arguments.input}: window {error.window}: {error} of it") from None
    printer = Printer(bundle.manifest.classes, arguments.format)
    with contextlib.suppress(BrokenPipeError):  # the reader has seen enough
        for number, row in enumerate(logits):
            printer(number, row)
        sys.stdout.flush()


def _run_live(arguments: argparse.Namespace) -> None:
    from client.sources.gather import source_class

    try:
        source = source_class(arguments.source)
    except ConfigError as error:
        raise ConfigError("--source", error.problems) from None
    settings = _table(arguments.settings)
    bundle = opened(arguments)
    from client.bundle.live import LiveSink, live_settings
    from client.bundle.predictor import Predictor, check_rate

    wanted = bundle.manifest.input
    check_rate(arguments.hz, wanted)
    try:
        checked = live_settings(source, settings, (wanted.time, wanted.channels))
    except ConfigError as error:
        raise ConfigError(str(arguments.settings or "--settings"), error.problems) from None
    predictor = Predictor(bundle)
    printer = Printer(bundle.manifest.classes, arguments.format, live=True)
    sink = LiveSink(predictor, arguments.count, printer, _odd)
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):  # its ordinary ends
        source(checked).run(sink, sink.done)
    sink.done.set()
    if arguments.count is not None and sink.predicted < arguments.count:
        _odd(f"the source ended after {sink.predicted} windows of {arguments.count}")


class Printer:
    """Writes a prediction a line.

    Parameters
    ----------
    classes : tuple[str, ...]
    style : "table", "json" or "csv"
    live : bool
        Write each line at once.
    """

    def __init__(self, classes: tuple[str, ...], style: str, *, live: bool = False) -> None:
        self._classes, self._style, self._live = classes, style, live
        self._width = max(5, *map(len, classes))
        if style == "table":
            self._write(f"window  {'class':<{self._width}}  probability")
        elif style == "csv":
            self._write("window,class,probability")

    def __call__(self, number: int, logits: "Floats") -> None:
        """Write one."""
        best = int(logits.argmax())
        name, share = self._classes[best], _share(logits.tolist(), best)
        if self._style == "json":
            line = {"window": number, "class": name, "probability": share}
            self._write(json.dumps({**line, "logits": logits.tolist()}))
        elif self._style == "csv":
            quoted = '"' + name.replace('"', '""') + '"' if set(name) & set(',"') else name
            self._write(f"{number},{quoted},{share:.4f}")
        else:
            self._write(f"{number:>6}  {name:<{self._width}}  {share:.3f}")

    def _write(self, line: str) -> None:
        sys.stdout.write(f"{line}\n")
        if self._live:
            sys.stdout.flush()


def _share(logits: list[float], best: int) -> float:
    """The softmax of one."""
    return 1 / sum(math.exp(value - logits[best]) for value in logits)


def _table(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return parsed(read_plain(path), path)
    except OSError as error:
        raise ConfigError(str(path), [error.strerror or str(error)]) from None


def _odd(text: str) -> None:
    print(f"flwr-edge: {text}", file=sys.stderr)  # noqa: T201


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 17 else 0
    if not 1 <= value <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, at least 1")
    return value


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected samples a second, above 0")
    return value
