"""Samples from a named pipe, a line each."""

import os
import select
import stat
import threading
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field

from client.sources.base import AbsolutePath, Sink, SourceSettings
from client.sources.frames import Framer, Silence

_POLL: Final = 0.5  # seconds between looks at whether to stop
_LONGEST_LINE: Final = 1 << 16
_CHUNK: Final = 1 << 12  # what is taken for longer reads and given back leaves the heap in holes


class PipeSettings(SourceSettings):
    """Settings of ``pipe``.

    Attributes
    ----------
    path : Path
        The pipe; made where there is none.
    step : int, optional
        Samples from a window's first to the next one's; a window's length where left out.
    gap : float, optional
        Seconds of silence that no window may span; where left out, any may lie in one. A writer
        that fills a buffer first is silent for as long.
    """

    path: AbsolutePath
    step: int | None = Field(None, ge=1)
    gap: float | None = Field(None, gt=0)
    max_per_second: float | None = Field(50.0, gt=0)


class PipeSource:
    """Reads lines of numbers with commas, ``0.1,-0.2,9.8``; ``;3`` at the end is a label.

    Samples that follow on each other make windows. A line that is none, a writer that goes, and a
    silence longer than ``gap`` break the run: the next window starts after it.

    Parameters
    ----------
    settings : PipeSettings
    """

    Settings: ClassVar[type[SourceSettings]] = PipeSettings

    def __init__(self, settings: Any) -> None:
        self._settings: PipeSettings = settings
        step = settings.step or settings.time
        self._framer = Framer(settings.time, settings.channels, step)
        self._silence = Silence(settings.gap)
        self._rest = b""

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """Read until told to stop; writers come and go."""
        path = self._settings.path
        pipe, in_use = _opened(path), False
        try:
            while not stop.is_set():
                # Not blocking: with no writer there is nothing to wait on.
                if select.select([pipe], [], [], _POLL)[0]:
                    if data := os.read(pipe, _CHUNK):
                        in_use = True
                        self._feed(data, sink)
                        continue
                    in_use = False
                    self._broken(sink)
                    stop.wait(_POLL)
                if not in_use and not _same(pipe, path):
                    os.close(pipe)
                    pipe = -1
                    pipe = _opened(path)
        finally:
            if pipe >= 0:
                os.close(pipe)

    def _feed(self, data: bytes, sink: Sink) -> None:
        silent = self._silence.ended()
        if silent and self._framer.reset():
            sink.trouble("gap", f"nothing came for {silent:.0f} s; no window spans it")
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line, sink)
        if len(rest) > _LONGEST_LINE:
            sink.trouble("line", f"a line longer than {_LONGEST_LINE} bytes; dropped")
            self._framer.reset()
            rest = rest[:1] + b"?" * 8  # what is left of it will be no sample either
        self._rest = rest

    def _line(self, line: bytes, sink: Sink) -> None:
        if not line.strip():
            return
        try:
            values, _, label = line.partition(b";")
            row = [float(cell) for cell in values.split(b",")]
            window = self._framer.add(row, int(label) if label.strip() else -1)
        except ValueError as error:
            sink.trouble("line", f"{line[:60]!r} is no sample: {error}")
            self._framer.reset()
            return
        if window is not None:
            sink.give(window)

    def _broken(self, sink: Sink) -> None:
        """The last writer went."""
        if self._rest:
            sink.trouble("half a line", f"the pipe closed after {self._rest[:60]!r}")
        self._rest = b""
        self._framer.reset()


def _opened(path: Path) -> int:
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path, 0o660)
        path.chmod(0o660)  # whatever the umask: the group's programs write to it
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(pipe).st_mode):
        os.close(pipe)
        raise OSError(f"{path}: is no named pipe (mkfifo)")
    return pipe


def _same(pipe: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(pipe), path.stat())
    except OSError:
        return False
