"""``flwr-fleet demo``: a broker, a server and a daemon a person, in one terminal."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from schemas.base import ConfigError
from simulations.exits import INTERRUPTED
from simulations.options import Sets

if TYPE_CHECKING:
    from simulations.progress import Progress

BUILT_IN = Path(__file__).with_name("demo.toml")
_BAR = 30  # characters of a macro-F1 of 1


def demo(
    file: Annotated[
        Path | None,
        typer.Argument(help="A simulation file; left out: ten people of the watch set."),
    ] = None,
    set_: Sets = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep the run folder and everybody's logs here.")
    ] = None,
) -> None:
    """Show a fleet at work: real daemons, a real broker, and each person's F1 rising.

    Every person of a recorded data set becomes a device: a daemon process that has only that
    person's windows. The server reaches them through Mosquitto, as it would reach a Raspberry Pi.
    Nothing is left running.

    Example: flwr-fleet demo --set rounds=12
    """
    from simulations.data.base import DataError
    from simulations.report.files import RunError

    console = Console(stderr=True)
    try:
        _demo(file or BUILT_IN, set_ or [], out, console)
    except ConfigError as error:
        console.print(str(error), style="red", markup=False)
        sys.exit(2)
    except (DataError, RunError, OSError) as error:
        console.print(f"flwr-fleet: {error}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("interrupted; broker and daemons are gone")
        sys.exit(INTERRUPTED)


def _demo(file: Path, sets: list[str], out: Path | None, console: Console) -> None:
    from simulations.config import load
    from simulations.engine.fleet import fleet
    from simulations.report.folder import RunFolder
    from simulations.report.lock import held
    from simulations.run import prepare, run_on
    from simulations.world import open_world

    loaded = load(file, sets)
    prepare()
    with tempfile.TemporaryDirectory(prefix="flwr-fleet-") as scratch:
        root = out or Path(scratch)
        folder = RunFolder.create(loaded.config.name, root / "run")
        folder.write_config(loaded.config, loaded.path.parent)
        with (
            held(folder.path),
            _shown(console) as progress,
            open_world(loaded, folder.path / ".windows", progress.note) as world,
        ):
            timeout = loaded.config.cohort.timeout_seconds
            progress.note(f"starting a broker and {len(world.nodes)} daemons")
            with fleet(world.nodes, root / "fleet", timeout) as grid:
                progress.note(f"{len(world.nodes)} devices online")
                run_on(grid, world, loaded, folder, progress)
                dropped = sum(grid.drops().values())
        console.print(f"broker and daemons are gone; {dropped} messages were dropped")
        if out is not None:
            console.print(f"report: {folder.path / 'report.html'}", soft_wrap=True)


def _shown(console: Console) -> "Progress":
    from simulations.progress import Progress

    class People(Progress):
        """Shows each person's macro-F1 as a bar, and what it gained since the first look."""

        first: Mapping[str, float] | None = None

        def people(self, number: int, scores: Mapping[str, float]) -> None:
            self.first = self.first or scores
            self.console.print(_bars(number, scores, self.first))

    return People(console)


def _bars(number: int, scores: Mapping[str, float], first: Mapping[str, float]) -> Table:
    table = Table(title=f"macro-F1 after round {number}", title_justify="left", box=None)
    for _ in range(3):
        table.add_column()
    for person, score in sorted(scores.items()):
        gain = score - first.get(person, score)
        table.add_row(person, "█" * round(score * _BAR), f"{score:.3f} ({gain:+.3f})")
    return table
