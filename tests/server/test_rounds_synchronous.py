"""Rounds with a deadline and a least number of replies."""

import numpy as np
import pytest
from flwr.app import Error, Message

from schemas.simulation import Synchronous
from server.border import weights_of
from server.checkpoint import Checkpoint
from server.rounds import Rounds, RoundsError, Watch
from server.strategies.averaging import FedAvg

PERSONS = {1: "Ann", 2: "Bo", 3: "Cy", 4: "Di"}


@pytest.fixture
def go(federation, devices, trained, counted):
    """Run FedAvg; ``silent`` tells who says nothing in a round."""

    def run(silent, rounds=3, resume=None, nodes=PERSONS, cohort=None, kept=None, **rules):
        config = federation(rounds=rounds, cohort=cohort, synchronous=Synchronous(**rules))
        strategy = FedAvg(config, FedAvg.Parameters())
        kept, lines = [] if kept is None else kept, []

        def answer(message):
            node, kind = message.metadata.dst_node_id, message.metadata.message_type
            if kind == "evaluate":
                return counted(message)
            if kind != "train":
                return Message(Error(1, "no query"), reply_to=message)
            number = message.content["config"]["server-round"]
            if node in silent.get(number, ()):
                return None
            return trained(message, np.full(weights_of(message).size, 0.1))

        watch = Watch(lambda _: None, kept.append, lambda _: 1.0, lines.append)
        grid = devices(nodes, answer)
        outcome = Rounds("it", strategy, grid, PERSONS, {}, rounds, watch, "id").run(resume)
        return outcome, kept, lines

    return run


def test_a_round_with_too_few_replies_teaches_nothing_and_is_said(go):
    outcome, kept, lines = go({2: {1, 2}}, min_replies=3, deadline_seconds=7)
    assert [record.applied for record in outcome.rounds] == [True, False, True]
    assert [record.late for record in outcome.rounds] == [0, 2, 0]
    first, second, third = (c.arrays["weights"].numpy() for c in kept)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(third, first + 0.1, atol=1e-6)
    assert "it: round 2 not applied: 2 good replies of 4 asked, 3 needed" in lines
    assert outcome.late == {"Ann": 1, "Bo": 1}
    assert outcome.failures["Ann"] == ["round 2: no reply within 7 s"]
    assert not outcome.dropped


def test_too_many_such_rounds_in_a_row_end_the_run(go):
    silent = {number: {1, 2} for number in (1, 3, 4)}
    outcome, _, _ = go(silent, rounds=3, min_replies=3, give_up_after=2)
    assert sum(record.applied for record in outcome.rounds) == 1
    with pytest.raises(RoundsError, match="the last 2 rounds had fewer than 3 good") as caught:
        go(silent, rounds=5, min_replies=3, give_up_after=2)
    assert "\n" not in str(caught.value)


def test_a_resumed_run_remembers_the_rounds_that_came_to_nothing(go, tmp_path):
    silent, kept = {number: {1, 2} for number in (2, 3)}, []
    with pytest.raises(RoundsError):
        go(silent, rounds=4, min_replies=3, give_up_after=2, kept=kept)
    assert [checkpoint.round for checkpoint in kept] == [1, 2, 3]
    (tmp_path / "c").write_bytes(kept[1].to_bytes())
    resume = Checkpoint.read(tmp_path / "c", "id")
    with pytest.raises(RoundsError):
        go(silent, rounds=4, min_replies=3, give_up_after=2, resume=resume)


def test_a_cohort_is_who_is_there_and_an_empty_one_waits_and_counts_as_nothing(go):
    outcome, _, _ = go({}, nodes={1, 2}, cohort=3)
    assert [record.cohort for record in outcome.rounds] == [2, 2, 2]
    with pytest.raises(RoundsError):
        go({}, nodes={}, deadline_seconds=0.05, give_up_after=2)
