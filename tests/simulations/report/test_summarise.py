from typing import Any

import numpy as np
import pytest

from schemas.simulation import Simulation
from schemas.summary import Summary
from server.outcome import Outcome, RoundRecord
from simulations.report import RunError, summarise
from simulations.report.summarise import bytes_per_participation

GOOD = np.array([[4, 0], [0, 4]])
HALF = np.array([[4, 0], [4, 0]])
NONE = np.zeros((2, 2), dtype=np.int64)
CONFIG = Simulation(name="tiny", seed=7)


def sum_up(*outcomes: Outcome) -> Summary:
    return summarise(CONFIG, "made up", ("a", "b"), ("mind the gap",), outcomes)


def test_means_rates_and_names() -> None:
    rounds = [RoundRecord(n, 2, 0.1, 0, 10, 5, 1.0) for n in (1, 2)]
    main = Outcome(
        "semipfl",
        rounds=rounds,
        confusion={"p": GOOD, "q": HALF},
        unseen={"z": GOOD},
        client_updates=4,
        device_seconds=2.0,
        wall_seconds=8.0,
        evaluations=5,
        evaluation_seconds=1.0,
        bytes_down=400,
        bytes_up=100,
    )
    summary = sum_up(main)
    assert summary.macro_f1.mean == pytest.approx((1 + 1 / 3) / 2)
    assert summary.macro_f1.worst_decile == pytest.approx(1 / 3)
    assert summary.macro_f1.unseen == 1.0
    assert (summary.persons, summary.unseen_persons) == (["p", "q"], ["z"])
    assert (summary.rounds, summary.client_updates_per_second) == (2, 0.5)
    assert (summary.device_seconds, summary.evaluation_seconds, summary.seed) == (0.5, 0.2, 7)
    assert (summary.bytes_per_participation.down, summary.bytes_per_participation.up) == (100, 25)


def test_rounds_that_taught_nothing_are_counted_in_a_note() -> None:
    rounds = [RoundRecord(n, 2, 0.1, 2, 10, 0, 1.0, applied=n == 3) for n in (1, 2, 3)]
    idle = Outcome("fedavg", rounds=rounds[:2], confusion={"p": GOOD})
    untrained = Outcome("source", rounds=[RoundRecord(0, 0, 0.0, 0, 0, 0, 0.0)])
    untrained.confusion = {"p": GOOD}
    main = Outcome("ditto", rounds=rounds, confusion={"p": GOOD})
    assert sum_up(main, idle, untrained).notes == [
        "mind the gap",
        "ditto: nothing was learned in 2 of 3 rounds.",
        "fedavg: nothing was learned in 2 of 2 rounds.",
    ]


def test_without_trainings_the_participation_is_the_one_download() -> None:
    outcome = Outcome("source", confusion={"p": GOOD}, unseen={"z": GOOD}, bytes_down=400)
    assert bytes_per_participation(outcome).down == 200
    assert bytes_per_participation(Outcome("source")).down == 0
    summary = sum_up(outcome)
    assert (summary.rounds, summary.device_seconds, summary.client_updates_per_second) == (0, 0, 0)
    assert summary.evaluation_seconds is None


def test_whoever_has_no_result_is_named() -> None:
    main = Outcome("semipfl", confusion={"p": GOOD, "q": NONE}, unseen={"y": GOOD, "z": NONE})
    main.failures = {"r": ["no answer"], "q": ["NaN"]}
    summary = sum_up(main, Outcome("fedavg", confusion={"p": GOOD, "q": GOOD, "r": HALF}))
    assert summary.macro_f1.mean == 1.0
    assert summary.persons == ["p", "q", "r"]
    assert summary.notes == [
        "mind the gap",
        "semipfl: without a result, and so in none of its means: q, r, z.",
    ]


def test_a_person_who_failed_everywhere_is_still_one_of_the_persons() -> None:
    main = Outcome("semipfl", confusion={"p": GOOD}, failures={"q": ["no answer"]})
    assert sum_up(main).persons == ["p", "q"]


def test_a_baseline_without_results_is_left_out_and_a_main_strategy_cannot_be() -> None:
    main, empty = Outcome("semipfl", confusion={"p": GOOD}), Outcome("fedavg")
    summary = sum_up(main, empty)
    assert not summary.baselines
    assert summary.failed == ["fedavg"]
    assert summary.notes[-1] == "fedavg: no person was tested; its row has no figures."
    with pytest.raises(RunError, match="fedavg: no person was tested"):
        sum_up(empty, main)


def test_the_first_outcome_is_the_run_and_the_rest_are_baselines(small: Any) -> None:
    assert small.summary.strategy == "semipfl"
    names = [method.strategy for method in small.summary.baselines]
    assert names == ["source-adabn", "fedavg", "local"]
