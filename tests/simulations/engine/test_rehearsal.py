"""Delays, dropouts and offline spells on a simulated clock: repeatable, resumable, not slept."""

import time
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from schemas.base import ConfigError
from schemas.simulation import Asynchronous, Rehearsal, Simulation
from server.rounds import progress_of
from server.view import GridView
from simulations.config import load
from simulations.engine.fate import Fates
from simulations.engine.rehearsal import RehearsalGrid, rehearse
from simulations.report.summarise import summarise_method
from simulations.run import StrategyRun, identity_of


class Stopped(BaseException):
    """A process that ends here."""


def stop_after_checkpoint(number, monkeypatch):
    save = StrategyRun._save

    def save_and_stop(self, checkpoint):
        save(self, checkpoint)
        if checkpoint.round == number:
            raise Stopped

    monkeypatch.setattr(StrategyRun, "_save", save_and_stop)


def result(outcome):
    fields = progress_of(outcome)
    for clock in ("wall_seconds", "device_seconds", "evaluation_seconds"):
        del fields[clock]
    for record in fields["rounds"]:
        del record["seconds"]
    return fields


@pytest.fixture
def rehearsal(make_grid):
    def make(seed=0, workers=2, nodes=6, **rules):
        return RehearsalGrid(make_grid(nodes, workers), Rehearsal(**rules), seed)

    return make


@pytest.fixture
def task():
    def make(node, number=1, action="echo"):
        config = ConfigRecord({"server-round": number})
        return Message(RecordDict({"config": config}), node, f"train.{action}")

    return make


def test_fates_are_the_seeds_and_spread_as_told():
    rules = Rehearsal(delay_seconds=10, dropout=0.2, device_spread=1.0, task_spread=0.0)
    fates = [Fates(rules, 3).of(node, task) for node in range(400) for task in range(5)]
    assert fates == [Fates(rules, 3).of(node, task) for node in range(400) for task in range(5)]
    assert fates != [Fates(rules, 4).of(node, task) for node in range(400) for task in range(5)]
    assert np.mean([fate.dropped for fate in fates]) == pytest.approx(0.2, abs=0.03)
    logs = np.log([fate.seconds for fate in fates[::5]])
    assert np.median(logs) == pytest.approx(np.log(10), abs=0.15)
    assert np.std(logs) == pytest.approx(1.0, abs=0.1)
    assert len({fate.seconds for fate in fates[:5]}) == 1  # one device, no spread of tasks


def test_offline_spells_take_their_share_of_the_time():
    fates = Fates(Rehearsal(offline_fraction=0.3, offline_seconds=100), 1)
    away = [fates.reachable(n, t) > t for n in range(40) for t in np.arange(0, 2e4, 37.0)]
    assert np.mean(away) == pytest.approx(0.3, abs=0.04)
    back = fates.reachable(5, 1000.0)
    assert fates.reachable(5, back) == back
    assert Fates(Rehearsal(), 1).reachable(5, 7.0) == 7.0


def test_replies_come_when_the_clock_says_and_nobody_sleeps(rehearsal, task):
    grid = rehearsal(delay_seconds=1e5)
    began = time.perf_counter()
    ids = grid.push_messages([task(node) for node in range(6)])
    came = []
    assert grid.pull_messages(ids) == []
    for _ in ids:
        grid.wait(float("inf"))
        came += [(reply.metadata.src_node_id, grid.now()) for reply in grid.pull_messages(ids)]
    assert sorted(node for node, _ in came) == list(range(6))
    fates = {node: grid.fates.of(node, 1).seconds for node in range(6)}
    assert came == sorted(fates.items(), key=lambda pair: pair[1])
    assert time.perf_counter() - began < 20


def test_a_deadline_leaves_the_late_out_and_the_clock_stops_at_it(rehearsal, task):
    grid = rehearsal(delay_seconds=10, device_spread=1.0)
    seconds = {node: grid.fates.of(node, 1).seconds for node in range(6)}
    limit = sorted(seconds.values())[2]
    replies = grid.send_and_receive([task(node) for node in range(6)], timeout=limit)
    assert {r.metadata.src_node_id for r in replies} == {n for n in seconds if seconds[n] <= limit}
    assert grid.now() == limit
    assert grid.course() == {"now": limit, "due": []}
    replies = grid.send_and_receive([task(node, 2) for node in range(6)])
    assert len(replies) == 6


def test_who_drops_out_answers_with_an_error_after_a_while(rehearsal, task):
    grid = rehearsal(delay_seconds=0, dropout=1)
    (reply,) = grid.send_and_receive([task(1)])
    assert (reply.has_error(), reply.error.reason) == (True, "dropped out")
    assert reply.metadata.src_node_id == 1
    assert grid.now() >= 1


def test_who_is_away_is_not_there_to_be_asked(rehearsal):
    grid = rehearsal(offline_fraction=0.5, offline_seconds=50)
    seen = set()
    for until in range(0, 2000, 50):
        grid.wait(until)
        seen.add(tuple(grid.get_node_ids()))
    assert len(seen) > 10
    assert grid.examination.get_node_ids() == list(range(6))


def test_only_this_machines_workers_rehearse(make_grid):
    other = GridView(make_grid(2, 1), [0])
    with pytest.raises(ConfigError, match="only flwr-sim's own workers"):
        rehearse(other, Simulation(name="run", rehearsal=Rehearsal()))
    assert rehearse(other, Simulation(name="run", asynchronous=Asynchronous())) is other


def test_without_a_table_the_grid_is_as_it_was(make_grid):
    grid = make_grid(2, 1)
    assert rehearse(grid, Simulation(name="run")) is grid
    assert isinstance(rehearse(grid, Simulation(name="run", asynchronous={})), RehearsalGrid)


HARD = ["rehearsal.delay_seconds=60", "rehearsal.device_spread=1.0", "rehearsal.dropout=0.15"]
HARD += ["rehearsal.offline_fraction=0.2", "rehearsal.offline_seconds=300", "rounds=5"]
MODES = {
    "synchronous": ["synchronous.deadline_seconds=120", "synchronous.give_up_after=50"],
    "asynchronous": ["asynchronous.deadline_seconds=400", "asynchronous.buffer=2"],
}


@pytest.fixture
def go(stage, quiet, tmp_path):
    def run(name, mode, folder, workers=2):
        on = stage(workers=workers)
        overrides = [*HARD, *MODES[mode], "cohort.size=3", f"strategy='{name}'", "baselines=[]"]
        loaded = load(on.loaded.path, overrides)
        federation = replace(on.world.federation, config=loaded.config)
        world = replace(on.world, federation=federation)
        return StrategyRun(name, loaded, world, tmp_path / folder, quiet).run(on.grid)

    return run


@pytest.mark.parametrize("mode", MODES)
def test_stopped_after_any_checkpoint_or_with_other_workers_it_is_the_same(go, monkeypatch, mode):
    name = "ditto"  # whose devices keep the most
    whole = go(name, mode, "whole")
    for number in (1, 4):
        with monkeypatch.context() as patch:
            stop_after_checkpoint(number, patch)
            with pytest.raises(Stopped):
                go(name, mode, "broken")
    assert result(go(name, mode, "broken")) == result(whole)
    assert result(go(name, mode, "alone", workers=1)) == result(whole)
    summary = summarise_method(whole)
    assert summary.simulated_seconds > 0
    assert (summary.staleness is None) == (mode == "synchronous")
    assert sum(summary.late.values()) + sum(summary.dropped.values()) > 0
    assert set(summary.late) | set(summary.dropped) <= set(summary.failures)


def test_files_without_a_mode_keep_their_identity(simulation_file):
    def identity(*overrides):
        return identity_of(load(simulation_file, overrides), "fedavg")

    assert identity() == identity("rounds=3")
    assert len({identity(), identity("asynchronous.buffer=2"), identity(HARD[0])}) == 3
