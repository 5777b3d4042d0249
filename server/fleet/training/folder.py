"""A training's folder: what it was told, a line a round, where it stands, what it came to."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from server.checkpoint import Checkpoint
from server.fleet.errors import Refusal
from server.fleet.secret import write

_RUN: Final = "run.json"
_SUMMARY: Final = "summary.json"
_CHECKPOINT: Final = "checkpoint.safetensors"
_ROUNDS: Final = "rounds.jsonl"


class TrainingFolder:
    """The files; each is written beside its place and renamed.

    ``run.json`` holds the file's settings, the run's name and its devices; ``rounds.jsonl`` a line
    a round; ``checkpoint.safetensors`` the weights and all that the run needs to go on;
    ``summary.json`` is written last: a run that has one is finished.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check_new(self) -> None:
        """Refuse a folder that holds something."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise Refusal(f"{self.path}: is not empty; go on with it by --resume, or name --out")

    def begun(self) -> dict[str, Any]:
        """What ``begin`` wrote.

        Raises
        ------
        Refusal
            Where there is no run, or it is finished.
        """
        try:
            run: dict[str, Any] = json.loads((self.path / _RUN).read_bytes())
            run["name"], run["devices"].items()
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise Refusal(f"{self.path}: no training to go on with; leave out --resume") from None
        if (self.path / _SUMMARY).exists():
            raise Refusal(f"{self.path}: it is finished; leave out --resume, and name --out")
        return run

    def begin(self, name: str, devices: dict[str, int], settings: dict[str, Any]) -> None:
        """Write down what the run is, once."""
        self.path.mkdir(parents=True, exist_ok=True)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        told = {"name": name, "began": began, "devices": devices, "settings": settings}
        self._write(_RUN, json.dumps(told, indent=2))

    def checkpoint(self, identity: str) -> Checkpoint | None:
        """Where the run stands; None before its first round was over."""
        path = self.path / _CHECKPOINT
        return Checkpoint.read(path, identity) if path.exists() else None

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a round: the checkpoint, then the lines that it knows of."""
        write(self.path / _CHECKPOINT, checkpoint.to_bytes())
        self.lines(checkpoint.progress["rounds"])

    def lines(self, rounds: list[dict[str, Any]]) -> None:
        """Write all rounds, a line each."""
        self._write(_ROUNDS, "\n".join(json.dumps(line_of(one)) for one in rounds))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write what it came to."""
        self._write(_SUMMARY, json.dumps(summary, indent=2))

    def _write(self, name: str, text: str) -> None:
        write(self.path / name, f"{text}\n".encode())


def line_of(record: dict[str, Any]) -> dict[str, Any]:
    """A round as operators count: asked = answered + refused + late."""
    asked, failed, late = record["cohort"], record["failures"], record["late"]
    return {
        "round": record["round"],
        "asked": asked,
        "answered": asked - failed,
        "refused": failed - late,
        "late": late,
        "loss": record["loss"],
        "macro_f1": record["macro_f1"],
        "applied": record["applied"],
        "bytes_down": record["bytes_down"],
        "bytes_up": record["bytes_up"],
        "seconds": round(record["seconds"], 3),
    }
