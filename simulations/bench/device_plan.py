"""One person's task of a real simulation, in a folder, for ``flwr-edge bench footprint --plan``."""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from client.footprint_plan import Measured
from schemas.plan import Plan
from server.flower_private import SERVER_NODE_ID, identify
from server.strategies.installed import strategies
from simulations.config import Loaded
from simulations.run import prepare
from simulations.world import World, open_world


def write_plan(loaded: Loaded, folder: Path) -> Measured:
    """Write what the first person is asked in the first round, with that person's windows.

    Parameters
    ----------
    loaded : Loaded
        A simulation file; its ``strategy`` is asked.
    folder : Path

    Raises
    ------
    DataError, ConfigError, RunError
        See ``open_world``.
    ValueError
        Where the strategy asks nothing of a person in a round.
    """
    prepare()
    identify(1, SERVER_NODE_ID)  # Flower's messages ask who writes them
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_world(loaded, Path(scratch) / "windows", lambda _: None) as world,
    ):
        measured = _first(loaded, world)
        measured.save(folder)
    return replace(measured, windows=folder / "windows")


def _first(loaded: Loaded, world: World) -> Measured:
    name = loaded.config.strategy
    strategy = strategies()[name](world.federation, loaded.parameters[name])
    config = ConfigRecord({**strategy.train_config(), "server-round": 1})
    everyone = cast("Grid", _Everyone(world.persons))
    asked = list(strategy.configure_train(1, strategy.initial(), config, everyone))
    if not asked:
        raise ValueError(f"{loaded.path}: {name} asks nothing of a person in a round")
    return _measured(f"{loaded.config.name}, {name}", asked[0], world)


def _measured(name: str, message: Message, world: World) -> Measured:
    content = message.content
    plan = Plan.model_validate_json(str(content.config_records["config"]["plan"]))
    weights = content.array_records["arrays"]["weights"].numpy()
    book = world.federation.graphs.graphs
    graphs = {digest: book[digest] for digest in plan.graphs()}
    windows = Path(str(world.nodes[message.metadata.dst_node_id]["windows"]))
    return Measured(name, plan, weights, graphs, windows)


class _Everyone:
    """As much of a grid as a strategy asks to sample from it."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self._nodes = sorted(nodes)

    def get_node_ids(self) -> list[int]:
        """All are there."""
        return self._nodes
