"""Help as wide as the terminal is: texts flow, examples and options stay whole."""

import argparse
import textwrap
from collections.abc import Iterator
from itertools import groupby


class Formatter(argparse.HelpFormatter):
    """Lines that are indented keep their ends; the others are wrapped, paragraph by paragraph."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = "\n".join(_flowing(text, width - len(indent)))
        return textwrap.indent(lines, indent)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrapped(text, width)


def _flowing(text: str, width: int) -> Iterator[str]:
    for kept, lines in groupby(text.splitlines(), lambda line: not line or line.startswith(" ")):
        whole = list(lines)
        yield from whole if kept else _wrapped(" ".join(whole), width)


def _wrapped(text: str, width: int) -> list[str]:
    """Not broken at hyphens: options and paths are to be copied."""
    words = " ".join(text.split())
    return textwrap.wrap(words, width, break_on_hyphens=False, break_long_words=False)
