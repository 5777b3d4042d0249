"""Standard output whose reader may go before its end, as ``head`` does: that is no error."""

import os
from collections.abc import Callable
from typing import Any, TextIO


class Output:
    """A text stream that goes on, unread, where its reader has gone.

    Parameters
    ----------
    stream : TextIO
        Of a file descriptor, which then is the null device's.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or do as if; see ``TextIO.write``."""
        self._read(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush what is read."""
        self._read(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's."""
        return getattr(self._stream, name)

    def _read(self, do: Callable[[], object]) -> None:
        try:
            do()
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())  # Python flushes once more at its end
            os.close(null)
