"""Standard streams as commands need them."""

import os
import sys


def prepare() -> None:
    """Let commands write what they will; called once, as the process starts.

    What an encoding lacks becomes a question mark, which keeps columns in their places. A stream
    that was closed is the null device, for the processes that are started too: else the next file
    or socket to be opened would be taken for it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            null = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - it stays
            os.set_inheritable(null.fileno(), True)
            setattr(sys, name, null)
        elif name == "stdout" and getattr(stream, "errors", None) == "strict":
            stream.reconfigure(errors="replace")
