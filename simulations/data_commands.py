"""``flwr-sim data``: a look at the data before a run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from schemas.base import ConfigError
from schemas.new_file import NewFile
from schemas.simulation import Data, Simulation
from simulations.options import Format, Formats, Sets

if TYPE_CHECKING:
    from simulations.data.base import Recordings


def data(
    file: Annotated[
        Path,
        typer.Argument(help="A simulation file; or a folder or file of recordings, or an .npz."),
    ],
    set_: Sets = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="PNG", help="Draw it on a page, too.")
    ] = None,
    format_: Formats = Format.table,
) -> None:
    """Look at the data before a run: persons, classes, channels, parts, and what is odd.

    Nothing is trained. A folder or file that is no simulation file is read with defaults, which
    --set data.… overrides.

    Example: flwr-sim data simulations/wearables.toml --plot data.png
    """
    from simulations.look.advice import advice
    from simulations.look.facts import facts
    from simulations.look.show import show

    _check_plot(plot)
    config, recordings = _loaded(file, set_ or [])
    found = facts(recordings, config.data, config.seed)
    warnings = advice(found)
    if plot is not None:
        from simulations.look.plot import page

        drawn = page(recordings, f"The data of {file.name}")
        with NewFile(plot) as out:
            out.write(drawn)
    if format_ is Format.json:
        print(json.dumps({**found, "warnings": warnings}, indent=2))  # noqa: T201
        return
    console = Console()
    show(found, warnings, console)
    if plot is not None:
        console.print(f"drawn: {plot}", highlight=False, soft_wrap=True)


def _check_plot(plot: Path | None) -> None:
    if plot is None:
        return
    if plot.suffix.lower() != ".png":
        raise ConfigError("--plot", [f"{plot}: a PNG is written; give a name that ends in .png"])
    if not plot.parent.is_dir():
        raise ConfigError("--plot", [f"{plot.parent}: no such folder"])


def _loaded(file: Path, sets: list[str]) -> tuple[Simulation, "Recordings"]:
    """Read a simulation file, or what there is by itself, and its windows."""
    from simulations.data.base import DataError
    from simulations.data.checks import checked
    from simulations.data.load import source

    config, folder = _config(file, sets)
    try:
        found = source(config.data, folder).load()
        recordings = checked(found, config.data.kind)
    except ConfigError as error:
        raise ConfigError(str(file), error.problems) from error
    except DataError as error:
        named = str(error).startswith(str(file.resolve()))
        raise DataError(str(error) if named else f"{file}: {error}") from error
    return _fitting(file, config, recordings), recordings


def _config(file: Path, sets: list[str]) -> tuple[Simulation, Path]:
    if file.suffix.lower() == ".toml" or not file.exists():
        from simulations.config import load

        loaded = load(file, sets)
        return loaded.config, loaded.path.parent
    from pydantic import ValidationError

    from schemas.base import describe
    from schemas.toml_file import allowed_keys, override

    kind = "npz" if file.suffix.lower() == ".npz" else "recordings"
    table = {"name": "data", "data": {"kind": kind, "path": str(file.resolve())}}
    if wrong := [said for text in sets if (said := override(table, text))]:
        raise ConfigError("--set", wrong)
    try:
        return Simulation.model_validate(table), Path()
    except ValidationError as error:
        problems = describe(error.errors(), allowed_keys(Simulation))
        raise ConfigError(str(file), problems) from error


def _fitting(file: Path, config: Simulation, recordings: "Recordings") -> Simulation:
    """Where no file says how many sources there are: as many as leave a client."""
    if file.suffix.lower() == ".toml" or recordings.roles:
        return config
    own: Data = config.data
    if "source_persons" in own.model_fields_set:
        return config
    most = max(1, min(own.source_persons, len(recordings.persons) - 1 - own.unseen_persons))
    return config.model_copy(update={"data": own.model_copy(update={"source_persons": most})})
