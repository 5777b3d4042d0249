"""Where commands write: results to standard output or a file, progress to standard error."""

import argparse
import os
import sys
from pathlib import Path

from schemas.base import ConfigError
from schemas.new_file import NewFile


def out_file(text: str) -> Path:
    """Parse ``--out``: refuse, before any work, what cannot be written."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is a folder; name a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent}: no such folder")
    return path


def emit(text: str, out: Path | None) -> None:
    """Print a result, or write it to a file, whole or not at all."""
    if out is None:
        _print(text)
        return
    if not out.parent.is_dir():
        raise ConfigError("--out", [f"{out.parent}: no such folder"])
    with NewFile(out) as file:
        file.write(text.encode())


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """One line on standard error that is overwritten; where that is a file, nothing.

    Parameters
    ----------
    verbose
        Write every line, wherever standard error goes.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._live = sys.stderr.isatty() and not verbose

    def __call__(self, line: str) -> None:
        """Say what is being done."""
        if self._live:
            sys.stderr.write(f"\r\033[K{line}")
        elif self._verbose:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Clear the line."""
        if self._live:
            self("")
