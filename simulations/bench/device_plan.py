"""One person's task of a real simulation, in a folder, for ``flwr-edge bench footprint --plan``."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from client.footprint_plan import Measured
from schemas.base import ConfigError
from schemas.plan import Plan
from server.flower_private import SERVER_NODE_ID, identify
from server.strategies.installed import strategies
from simulations.config import Loaded
from simulations.report.files import RunError
from simulations.run import prepare
from simulations.world import World, open_world


def write_plan(
    loaded: Loaded, folder: Path, tell: Callable[[str], None] = lambda _: None
) -> Measured:
    """Write what the first person is asked in the first round, with that person's windows.

    Parameters
    ----------
    loaded : Loaded
        A simulation file; its ``strategy`` is asked.
    folder : Path
        New, or empty: written whole or not at all.
    tell : callable
        Takes a line for whoever watches.

    Raises
    ------
    DataError, ConfigError, RunError
        See ``open_world``; and where the strategy has a person learn nothing in a round, or the
        folder cannot be written.
    """
    _check_free(folder)
    prepare()
    identify(1, SERVER_NODE_ID)  # Flower's messages ask who writes them
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_world(loaded, Path(scratch) / "windows", tell) as world,
    ):
        measured = _first(loaded, world)
        _save(measured, folder)
    return replace(measured, windows=folder / "windows")


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; a plan needs a folder of its own")
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"{folder}: is not empty; name a new folder")


def _save(measured: Measured, folder: Path) -> None:
    """Write the folder beside, then rename it: who reads it finds all of it."""
    target = folder.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        measured.save(beside)
        beside.replace(target)  # over an empty folder, too
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _first(loaded: Loaded, world: World) -> Measured:
    name = loaded.config.strategy
    strategy = strategies()[name](world.federation, loaded.parameters[name])
    config = ConfigRecord({**strategy.train_config(), "server-round": 1})
    everyone = cast("Grid", _Everyone(world.persons))
    asked = list(strategy.configure_train(1, strategy.initial(), config, everyone))
    if not asked or "plan" not in _config(asked[0]):
        problem = (
            f"strategy = {name!r}: asks no device to learn in a round; name one that does, as by "
            "--set strategy=fedavg"
        )
        raise ConfigError(str(loaded.path), [problem])
    return _measured(f"{loaded.config.name}, {name}", asked[0], world)


def _config(message: Message) -> ConfigRecord:
    return message.content.config_records["config"]


def _measured(name: str, message: Message, world: World) -> Measured:
    plan = Plan.model_validate_json(str(_config(message)["plan"]))
    weights = message.content.array_records["arrays"]["weights"].numpy()
    graphs = world.federation.graphs.needed(plan.graphs())
    windows = Path(str(world.nodes[message.metadata.dst_node_id]["windows"]))
    return Measured(name, plan, weights, graphs, windows)


class _Everyone:
    """As much of a grid as a strategy asks to sample from it."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self._nodes = sorted(nodes)

    def get_node_ids(self) -> list[int]:
        """All are there."""
        return self._nodes
