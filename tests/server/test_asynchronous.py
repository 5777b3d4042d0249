"""Buffered steps: staleness, snapshots, late and lost devices, and resuming at any step."""

import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message

from schemas.simulation import Asynchronous
from server.asynchronous import AsynchronousRounds, rounds_class
from server.border import weights_of
from server.checkpoint import Checkpoint
from server.outcome import progress_of
from server.rounds import Rounds, RoundsError, Watch
from server.strategies.averaging import FedAvg, FedProx
from server.strategies.base import EdgeStrategy
from server.strategies.local import SourceModel
from server.strategies.pfedhn import PFedHN
from server.strategies.semipfl import SemiPFL

PERSONS = {1: "Ann", 2: "Bo", 3: "Cy", 4: "Di"}
SECONDS = {1: 1.0, 2: 1.0, 3: 2.0, 4: 5.0}
SMALL = {
    SemiPFL: {
        "reconstruction_steps": 2,
        "server_steps": 2,
        "embedding_rate": 0.5,
        "base_windows": 4,
    },
}


@pytest.fixture
def slow(devices):  # noqa: C901 - one class
    """Make devices of which each takes so many seconds of a simulated clock."""

    class Slow(type(devices([], None))):
        def __init__(self, answer, seconds=SECONDS):
            super().__init__(PERSONS, answer)
            self.seconds, self.time = seconds, 0.0
            self.flying, self.due, self.withdrawn = {}, {}, []

        def now(self):
            return self.time

        def wait(self, until):
            coming = [at for at, _ in self.flying.values() if at > self.time]
            self.time = max(self.time, min([until, *coming]))

        def push_messages(self, messages):
            ids = []
            for message in messages:
                node = message.metadata.dst_node_id
                number = message.content["config"]["server-round"]
                at = self.due.pop((node, number), self.time + self.seconds[node])
                self.sent.append(message)
                ids.append(f"{node}-{number}")
                self.flying[ids[-1]] = (at, message)
            return ids

        def pull_messages(self, ids):
            due = [i for i in self.flying if i in set(ids) and self.flying[i][0] <= self.time]
            for key in sorted(due, key=lambda i: self.flying[i][0]):
                reply = self.answer(self.flying[key][1])
                if reply is not None:
                    del self.flying[key]
                    return [reply]
            return []

        def withdraw(self, ids):
            self.withdrawn += ids
            for key in ids:
                self.flying.pop(key, None)

        def course(self):
            due = [[*map(int, k.split("-")), at] for k, (at, _) in self.flying.items()]
            return {"now": self.time, "due": due}

        def go_on(self, course):
            self.time = course["now"]
            self.due = {(node, number): at for node, number, at in course["due"]}

    return Slow


@pytest.fixture
def go(federation, slow, trained, counted):
    def run(cls=FedAvg, answer=None, resume=None, rounds=4, seconds=SECONDS, loop=None, **rules):
        config = {} if loop is Rounds else {"asynchronous": Asynchronous(**rules)}
        strategy = cls(federation(rounds=rounds, **config), cls.Parameters(**SMALL.get(cls, {})))

        def default(message):
            if message.metadata.message_type == "train":
                node = message.metadata.dst_node_id
                number = message.content["config"]["server-round"]
                rng = np.random.default_rng([node, number])
                return trained(message, 0.01 * rng.standard_normal(weights_of(message).size))
            if message.metadata.message_type == "evaluate":
                return counted(message)
            return Message(Error(1, "no query"), reply_to=message)

        grid = slow(lambda message: (answer or (lambda m, d: d(m)))(message, default), seconds)
        kept, lines = [], []
        watch = Watch(lambda _: None, kept.append, lambda _: 1.0, lines.append)
        made = (loop or AsynchronousRounds)("it", strategy, grid, PERSONS, {}, rounds, watch, "id")
        outcome = made.run(resume)
        return outcome, kept, grid, strategy

    return run


def result(outcome):
    fields = progress_of(outcome)
    for record in (fields, *fields["rounds"]):
        for clock in ("wall_seconds", "seconds"):
            record.pop(clock, None)
    return fields


@pytest.mark.parametrize("cls", [FedAvg, FedProx, PFedHN, SemiPFL])
def test_where_nobody_is_late_and_the_buffer_is_the_cohort_it_is_the_synchronous_run(go, cls):
    """Same requests, same updates, same order: the same weights up to rounding."""
    prompt = dict.fromkeys(PERSONS, 0.0)
    _, buffered, _, _ = go(cls, buffer=4, seconds=prompt)

    _, plain, _, _ = go(cls, loop=Rounds, seconds=prompt)
    a, b = buffered[-1], plain[-1]
    assert sorted(k for k in a.state if "snapshot" not in k) == sorted(b.state)
    for name, array in b.state.items():
        np.testing.assert_allclose(a.state[name], array, atol=2e-5, err_msg=name)
    if cls in {FedAvg, FedProx}:
        np.testing.assert_allclose(
            a.arrays["weights"].numpy(), b.arrays["weights"].numpy(), atol=1e-6
        )


def test_a_stale_update_counts_from_the_weights_it_was_made_for_and_weighs_less(go, trained):
    def answer(message, good):
        if message.metadata.message_type != "train":
            return good(message)
        node = message.metadata.dst_node_id
        return trained(message, np.full(weights_of(message).size, 10.0**-node))

    outcome, kept, _, _ = go(answer=answer, buffer=1, rounds=5, staleness_power=1.0)
    # At 1 s Ann and Bo, asked again after both; at 2 s Cy (asked at 0), Ann and Bo.
    assert [r.staleness for r in outcome.rounds] == [[0], [1], [2], [1], [2]]
    weights = [k.arrays["weights"].numpy()[0] for k in kept]
    steps = np.diff(weights[1:])
    np.testing.assert_allclose(steps, [1e-3 / 3, 1e-1 / 2, 1e-2 / 3], atol=1e-6)
    assert outcome.client_updates == 5
    assert outcome.simulated_seconds == 2.0


def test_a_change_is_pulled_back_through_the_generator_it_came_from(go, federation, trained):
    _, kept, grid, strategy = go(PFedHN, buffer=2, rounds=3)
    old, new = kept[0].state, kept[-1].state
    versions = {int(k.split("/")[1]) for k in new if k.startswith("snapshot/")}
    assert 0 in versions  # Di, who takes 5 s, works on what was sent first
    assert any(
        not np.array_equal(new[k], new[f"snapshot/0/{k}"])
        for k in old
        if k.startswith("generator/")
    )
    then = strategy.snapshots[0]
    trains = [m for m in grid.sent if m.metadata.message_type == "train"]
    sent = next(m for m in trains if m.metadata.dst_node_id == 4)
    generator = strategy.generator
    generator.load_state_dict(then.generator)
    with torch.no_grad():
        made = generator.generate(then.embeddings[4][None])[0]
    np.testing.assert_allclose(weights_of(sent)[: made.numel()], made.numpy(), atol=1e-6)


def test_snapshots_nobody_works_on_are_dropped(go):
    _, _, _, strategy = go(PFedHN, buffer=1, rounds=20)
    assert len(strategy.snapshots) <= len(PERSONS)


def test_devices_that_fail_or_stay_silent_are_counted_by_name_and_asked_again(go):
    def answer(message, good):
        kind, node = message.metadata.message_type, message.metadata.dst_node_id
        if kind == "train" and node == 1:
            return Message(Error(1, "the sensor fell off"), reply_to=message)
        return good(message)

    outcome, _, grid, _ = go(answer=answer, buffer=2, rounds=6, deadline_seconds=4)
    assert outcome.dropped["Ann"] >= 2
    assert outcome.late == {"Di": outcome.late["Di"]}
    assert outcome.failures["Di"][0].endswith("no reply within 4 s")
    assert any(key.startswith("4-") for key in grid.withdrawn)
    assert sum(r.late for r in outcome.rounds) == sum(outcome.late.values())
    assert sum(r.failures for r in outcome.rounds) == sum(map(len, outcome.failures.values()))


def test_no_more_than_the_concurrency_work_at_once(go):
    outcome, kept, grid, _ = go(buffer=2, concurrency=2, rounds=8)
    assert all(len(c.course["loop"]["flights"]) <= 2 for c in kept)
    assert {m.metadata.dst_node_id for m in grid.sent if m.metadata.message_type == "train"} == set(
        PERSONS
    )
    assert outcome.client_updates == 16


def test_where_no_update_comes_the_run_ends_with_a_line(go):
    def answer(message, good):
        kind = message.metadata.message_type
        return None if kind == "train" else good(message)

    with pytest.raises(RoundsError, match="no good update for 3 times 10 s") as caught:
        go(answer=answer, deadline_seconds=10, give_up_after=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", [FedAvg, FedProx, PFedHN, SemiPFL])
@pytest.mark.parametrize("buffer", [1, 3])
def test_from_any_checkpoint_a_run_comes_to_the_same_to_the_last_digit(go, tmp_path, cls, buffer):
    rules = {"buffer": buffer, "deadline_seconds": 4, "rounds": 6}
    whole, kept, _, _ = go(cls, **rules)
    for checkpoint in kept:
        path = tmp_path / "c"
        path.write_bytes(checkpoint.to_bytes())
        resumed, rest, _, _ = go(cls, resume=Checkpoint.read(path, "id"), **rules)
        assert result(resumed) == result(whole)
        last = rest[-1] if rest else checkpoint
        assert last.course == kept[-1].course
        assert sorted(last.state) == sorted(kept[-1].state)
        for name, array in kept[-1].state.items():
            np.testing.assert_array_equal(last.state[name], array)
        np.testing.assert_array_equal(
            last.arrays["weights"].numpy(), kept[-1].arrays["weights"].numpy()
        )


def test_what_a_strategy_makes_of_a_buffer_is_float32_or_its_own_fault(go):
    class Wide(FedAvg):
        kind = np.float64

        def absorb(self, version, arrays, returned):
            made = super().absorb(version, arrays, returned)["weights"].numpy()
            return ArrayRecord({"weights": Array(made.astype(self.kind))})

    outcome, kept, _, _ = go(Wide, buffer=2)
    assert not outcome.failures
    assert {one.arrays["weights"].dtype for one in kept} == {"float32"}
    Wide.kind = np.int32
    with pytest.raises(RoundsError, match=r"strategy 'it' returned weights int32\[\d+\]; expected"):
        go(Wide, buffer=2)


def test_who_has_no_rounds_runs_as_ever_and_who_cannot_is_refused(federation, devices):
    config = federation(asynchronous=Asynchronous())
    source = SourceModel(config, SourceModel.Parameters())
    assert rounds_class(source) is Rounds
    assert rounds_class(FedAvg(config, FedAvg.Parameters())) is AsynchronousRounds
    assert rounds_class(FedAvg(federation(), FedAvg.Parameters())) is Rounds

    class Other(SourceModel, EdgeStrategy):
        rounds = None

    made = Other(config, SourceModel.Parameters())
    assert rounds_class(made) is AsynchronousRounds
    with pytest.raises(TypeError, match="Other cannot run asynchronously"):
        AsynchronousRounds("it", made, devices(PERSONS, None), PERSONS, {}, 2, None, "id")


def test_the_mean_staleness_is_of_all_updates(go):
    outcome, _, _, _ = go(buffer=2, rounds=6)
    steps = [age for record in outcome.rounds for age in record.staleness]
    assert len(steps) == outcome.client_updates == 12
    assert max(steps) >= 1
    assert not math.isnan(outcome.rounds[-1].loss)
