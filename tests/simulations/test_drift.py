"""Devices that live through days of two states, the whole way through ONNX Runtime.

Classes 0 and 1 change places from state to state, and only class 2 looks as if there were two: no
window of the others says which state it is of, a day's condition does.
"""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from simulations.config import load
from simulations.engine.fleet import fleet
from simulations.engine.local_grid import LocalGrid
from simulations.progress import Progress
from simulations.report.metrics import accuracy
from simulations.run import APP, StrategyRun
from simulations.world import open_world
from tests.mosquitto import program

STATES = (0, 1, 0, 1, 0, 1, 1, 0, 0, 1)
"""By day: 1 to 4 are the sources', 5 and 6 clients, the others unseen."""
ASKED = 2 * 2
FILE = """
name = "drift"
rounds = 0
strategy = "functional-memory"
[data]
kind = "days"
path = "days.npz"
overlap = 0.0
train_fraction = 0.75
label_fraction = 0.0
source_days = 4
client_days = 2
[model]
width = 4
latent = 16
[source]
steps = 80
virtual_users = false
[engine]
workers = 1
[strategies.functional-memory]
adapter = "lora"
adapt = false  # two graphs fewer to export
steps = 0
memory_steps = 120
memory_persons = 4
memory_seen = 60
memory_judged = 40
memory_rate = 0.01
versions = 1
width = 16
blocks = 1
scale = 1.0
drift_quantile = 0.3
"""


def recordings(path):
    rng = np.random.default_rng(0)
    looks = rng.standard_normal((4, 20, 3))
    rows = [
        (who, day, label, trial)
        for who in range(2)
        for day in range(1, len(STATES) + 1)
        for label in range(3)
        for trial in range(1, 5)
        for _ in range(6)
    ]
    shown = [2 + STATES[d - 1] if y == 2 else y ^ STATES[d - 1] for _, d, y, _ in rows]
    who, day, label, trial = np.array(rows).T
    noise = rng.standard_normal((len(rows), 20, 3))
    x = (looks[shown] + 0.3 * noise + 0.2 * who[:, None, None]).astype(np.float32)
    names = {"subject": who, "subjects": ["ann", "bob"], "day": day, "trial": trial}
    np.savez(path, X=x, y=label, hz=10.0, **names)


@pytest.fixture(scope="module")
def lived(tmp_path_factory, edge_cache):
    """What a policy comes to; all live in one world, one after the other."""
    folder = tmp_path_factory.mktemp("drift")
    recordings(folder / "days.npz")
    (folder / "drift.toml").write_text(FILE)
    loaded = load(folder / "drift.toml")
    with (
        Progress(Console(file=StringIO(), width=200)) as progress,
        open_world(loaded, folder / "windows", progress.note) as world,
        LocalGrid(APP, world.nodes, 1, 60.0) as grid,
    ):

        def live(name, carrier=grid):
            table = f"strategies.functional-memory.regenerate='{name.split()[0]}'"
            told = load(folder / "drift.toml", [table])
            one = StrategyRun("functional-memory", told, world, folder / name, progress)
            return one.run(carrier)

        names = ("noticed", "always", "never", "noticed again")
        yield {"live": live, "world": world, **{name: live(name) for name in names}}


def asked(outcome):
    return sum(one.choice == "ask" for one in outcome.exchanges.values())


def score(outcome):
    tested = outcome.confusion | outcome.unseen
    return float(np.mean([accuracy(counts) for counts in tested.values()]))


def test_noticed_is_as_good_as_always_with_fewer_exchanges_and_never_is_worse(lived):
    noticed, always, never = (lived[name] for name in ("noticed", "always", "never"))
    assert asked(always) == 12
    assert asked(noticed) == ASKED
    assert asked(never) == 2
    assert score(always) > 0.9
    assert score(noticed) > score(always) - 0.02
    assert score(never) < score(noticed) - 0.2
    assert noticed.bytes_up + noticed.bytes_down < 0.7 * (always.bytes_up + always.bytes_down)
    assert not noticed.failures


def test_the_old_adapter_comes_back_with_its_state(lived):
    said = lived["noticed"].exchanges
    for who in ("ann", "bob"):
        choices = [said[f"{who} day {day}"].choice for day in range(5, 11)]
        assert choices == ["ask", "ask", "keep", "back", "keep", "back"]


def test_two_runs_are_the_same(lived):
    check_same(lived["noticed"], lived["noticed again"])


@pytest.mark.study
@pytest.mark.skipif(program() is None, reason="mosquitto is not installed")
def test_daemons_behind_a_broker_come_to_the_same(lived, tmp_path):
    with fleet(lived["world"].nodes, tmp_path / "fleet", 60, "drift") as grid:
        check_same(lived["noticed"], lived["live"]("noticed by daemons", grid))


def check_same(one, other):
    assert one.exchanges == other.exchanges
    for part in ("confusion", "unseen"):
        first, second = getattr(one, part), getattr(other, part)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)
