"""The memory floor: the machine's own streaming read of as many bytes."""

import ctypes
from functools import cache
from typing import Any

import numpy as np

from edge_kernels import library_path
from edge_kernels.bench.timing import Turn


@cache
def _stream() -> Any:
    function = ctypes.CDLL(str(library_path())).flwr_edge_stream
    function.argtypes = [ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    function.restype = ctypes.c_int
    return function


def stream(bytes_: int, threads: int) -> Turn:
    """Return a contender that reads a buffer of its own once a call.

    ``csrc/stream.cc`` says how. The clock is read there: calling it costs nothing that is counted.

    Parameters
    ----------
    bytes_
        How many, at least 1.
    threads
        That share them.
    """

    def turn(calls: int) -> float:
        microseconds = np.zeros(calls)
        if _stream()(bytes_, threads, calls, microseconds.ctypes.data):
            raise RuntimeError(f"the floor of {bytes_} bytes on {threads} threads: no memory left")
        return float(np.median(microseconds))

    return turn
