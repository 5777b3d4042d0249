"""The run folder: what a run leaves behind."""

import tomllib
from collections.abc import Sequence
from datetime import datetime
from itertools import chain, count
from pathlib import Path

import tomli_w
from pydantic import ValidationError

from schemas.simulation import Simulation
from schemas.summary import Summary
from server.outcome import Outcome
from simulations.report.files import RunError, atomic_write, make_folder
from simulations.report.reading import foreign, read_json, read_text

ADVICE = "give --out a new folder, or go on with it by --resume"
FORMAT: int = Summary.model_fields["format"].default


class RunFolder:
    """A run's files under one folder.

    ``summary.json`` is written last: a run whose summary is there is finished.

    Parameters
    ----------
    path : Path
        The folder; use ``create`` or ``open``, which check it.
    made : bool
        Whether ``create`` made it; else it was there, and is its owner's to remove.
    """

    def __init__(self, path: Path, *, made: bool = False) -> None:
        self.path, self.made = path, made

    @classmethod
    def create(
        cls,
        name: str,
        path: Path | None = None,
        root: Path = Path("runs"),
        advice: str = ADVICE,
    ) -> "RunFolder":
        """Make a new run folder.

        Parameters
        ----------
        name : str
            The run's name.
        path : Path, optional
            The folder, which must be empty or not there; ``root/NAME-TIME`` if left out.
        root : Path, default "runs"
            Where unnamed folders go.
        advice : str
            What to do where the folder is not empty, in the words of the command that runs.

        Raises
        ------
        RunError
            Where the folder holds something already, or cannot be made.
        """
        if path is None:
            stamp = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}"
            return cls(_new(root / f"{name}-{stamp}"), made=True)
        if path.exists() and not path.is_dir():
            raise RunError(f"{path}: is a file; a run needs a folder of its own")
        made = make_folder(path)
        if any(path.iterdir()):
            raise RunError(f"{path}: is not empty; {advice}")
        return cls(path, made=made)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of a run that was finished or interrupted.

        Raises
        ------
        RunError
            Where there is no run.
        """
        if not path.is_dir():
            what = "is a file" if path.exists() else "no such folder"
            raise RunError(f"{path}: {what}; name a run's folder (see flwr-sim list)")
        if not (path / "config.toml").is_file():
            sweep = "; it is a sweep's, whose table is table.md" if is_sweep(path) else ""
            raise RunError(f"{path}: no run's folder: it holds no config.toml{sweep}")
        return cls(path)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "summary.json").is_file()

    @property
    def started(self) -> datetime:
        """When the configuration was written; the run's name may hold another time zone's."""
        stamp = (self.path / "config.toml").stat().st_mtime
        return datetime.fromtimestamp(stamp).astimezone()

    def write_config(self, config: Simulation, source: Path | None = None) -> None:
        """Write ``config.toml``, from which the run can be run again.

        Parameters
        ----------
        config : Simulation
            With all overrides applied.
        source : Path, optional
            Folder of the simulation file; ``data.path`` becomes absolute by it.
        """
        if config.data.path is not None and source is not None:
            from simulations.data.paths import spelled_out

            path = str((source / spelled_out(config.data.path)).resolve())
            config = config.model_copy(
                update={"data": config.data.model_copy(update={"path": path})}
            )
        text = tomli_w.dumps(config.model_dump(exclude_none=True)).encode()
        file = self.path / "config.toml"
        if not file.is_file() or file.read_bytes() != text:  # its time is when the run started
            atomic_write(file, text)

    def config(self) -> Simulation:
        """Read ``config.toml``.

        Raises
        ------
        RunError
            Where it is broken.
        """
        path = self.path / "config.toml"
        try:
            return Simulation.model_validate(tomllib.loads(read_text(path)))
        except tomllib.TOMLDecodeError as error:
            raise RunError(f"{path}: no TOML: {error}") from error
        except ValidationError as error:
            raise foreign(path, error) from error

    def write(self, summary: Summary, outcomes: Sequence[Outcome]) -> None:
        """Write all results, and the summary last; ``config.toml`` is there already.

        Parameters
        ----------
        summary : Summary
            Of ``summarise``.
        outcomes : Sequence[Outcome]
            The main strategy's, then the baselines'.

        Raises
        ------
        RunError
            Where the disk is full or the folder is not writable.
        """
        from simulations.report import html, plots

        make_folder(self.path / "plots")
        for name, content in tables_of(summary, outcomes).items():
            atomic_write(self.path / name, content)
        drawn = plots.draw(summary, outcomes)
        for name, plot in drawn.items():
            atomic_write(self.path / "plots" / f"{name}.png", plot.png)
        page = html.render(self.path.name, self.config(), summary, drawn)
        atomic_write(self.path / "report.html", page.encode())
        text = summary.model_dump_json(indent=2) + "\n"
        atomic_write(self.path / "summary.json", text.encode())

    def summary(self) -> Summary:
        """Read ``summary.json``.

        Raises
        ------
        RunError
            Where it is missing, broken, foreign, or of a later release.
        """
        path = self.path / "summary.json"
        if not path.exists():
            raise RunError(f"{path}: not there: the run did not end; go on with it by --resume")
        found = read_json(path)
        written = found.get("format")
        if isinstance(written, int) and written > FORMAT:
            raise RunError(
                f"{path}: format {written} is of a later release; this one reads up to {FORMAT}"
            )
        try:
            return Summary.model_validate(found)
        except ValidationError as error:
            raise foreign(path, error) from error


def is_sweep(path: Path) -> bool:
    """Whether a folder is a sweep's: it keeps cells, and no run of its own."""
    return (path / "cells").is_dir() and not (path / "config.toml").exists()


def tables_of(summary: Summary, outcomes: Sequence[Outcome]) -> dict[str, bytes]:
    """Return the content of a run's data files, by name."""
    from simulations.report import tables

    return {
        "rounds.parquet": tables.rounds_parquet(outcomes),
        "persons.parquet": tables.persons_parquet(outcomes),
        "confusion.npz": tables.confusion_npz(outcomes, summary.classes),
    }


def _new(path: Path) -> Path:
    """Make a folder that nobody else has: another run may begin in the same second."""
    candidates = (path.with_name(f"{path.name}-{n}") for n in count(2))
    return next(one for one in chain((path,), candidates) if make_folder(one))
