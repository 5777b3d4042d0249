"""A made-up run, with everything that a real one has: failures, unseen persons, odd names."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.simulation import Simulation
from schemas.summary import Summary
from server.outcome import Outcome, RoundRecord
from simulations.report import RunFolder, summarise
from simulations.report.metrics import by_person, mean

EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
ACTIVITIES = (
    *("walking", "jogging", "stairs", "sitting", "standing", "typing", "teeth", "soup", "chips"),
    *("pasta", "drinking", "sandwich", "kicking", "catch", "dribbling", "writing", "clapping"),
    "folding",
)
# Result of each strategy, whether it has rounds, and kB down and up in a participation.
STRATEGIES = {
    "semipfl": (0.83, True, 184, 47),
    "source-adabn": (0.75, False, 186, 0),
    "fedavg": (0.71, True, 186, 48),
    "local": (0.46, False, 0, 0),
    "source": (0.74, False, 186, 0),
    "source-finetune": (0.76, False, 186, 0),
    "fedprox": (0.715, True, 186, 48),
    "fedavg-finetune": (0.765, True, 186, 48),
    "fedbn": (0.77, True, 182, 46),
    "fedper": (0.70, True, 170, 42),
    "fedrep": (0.69, True, 170, 42),
    "ditto": (0.755, True, 186, 48),
    "pfedhn": (0.62, True, 186, 186),
    "pefll": (0.72, True, 190, 190),
}


@dataclass
class Made:
    """A made-up run, before it is written."""

    config: Simulation
    classes: tuple[str, ...]
    outcomes: list[Outcome]
    summary: Summary


def confusion(rng: np.random.Generator, classes: int, hit: float) -> NDArray[np.int64]:
    """Windows of one person, who does not do every class."""
    rows = []
    alike = np.random.default_rng(5)  # what is mistaken for what is the same for everyone
    for own in range(classes):
        wrong = 0.8 * alike.dirichlet(np.full(classes, 0.12)) + 0.2 / classes
        right = np.eye(classes)[own]
        windows = 0 if rng.random() < 0.05 else int(rng.integers(12, 40))
        rows.append(rng.multinomial(windows, hit * right + (1 - hit) * wrong))
    return np.array(rows, dtype=np.int64)


def outcome(
    strategy: str, persons: list[str], unseen: list[str], classes: int, rounds: int
) -> Outcome:
    """A strategy's result; everyone is as easy or hard as for the other strategies."""
    score, federated, down, up = STRATEGIES[strategy]
    hard = np.random.default_rng(1).normal(0, 0.09, len(persons) + len(unseen))
    rng = np.random.default_rng(len(strategy) * 31 + ord(strategy[-1]))
    hits = np.clip(score + hard + rng.normal(0, 0.04, len(hard)), 0.1, 0.99)
    counts = [confusion(rng, classes, hit) for hit in hits]
    made = Outcome(strategy, wall_seconds=rounds * 2.5 + 7, client_updates=0)
    made.confusion = dict(zip(persons, counts[: len(persons)], strict=True))
    made.unseen = dict(zip(unseen, counts[len(persons) :], strict=True))
    everyone = len(persons) + len(unseen)
    made.bytes_down, made.bytes_up = down * 1000 * everyone, 0
    if federated:
        made.rounds = _rounds(rng, made, len(persons), rounds, (down * 1000, up * 1000))
        made.client_updates = len(persons) * rounds
        made.device_seconds = made.client_updates * 0.41
        made.bytes_down = down * 1000 * made.client_updates
        made.bytes_up = up * 1000 * made.client_updates
    return made


def _rounds(
    rng: np.random.Generator, made: Outcome, cohort: int, rounds: int, moved: tuple[int, int]
) -> list[RoundRecord]:
    end = mean(by_person(made.confusion).values())
    return [
        RoundRecord(
            round=n,
            cohort=cohort,
            loss=0.4 + 1.5 * np.exp(-4 * n / rounds) + rng.normal(0, 0.02),
            failures=0,
            bytes_down=moved[0] * cohort,
            bytes_up=moved[1] * cohort,
            seconds=2.5,
            macro_f1=end - 0.35 * np.exp(-5 * n / rounds) + rng.normal(0, 0.006)
            if n % 5 == 0
            else None,
        )
        for n in range(1, rounds + 1)
    ]


def build(
    persons: int = 6,
    classes: tuple[str, ...] = EXERCISES,
    strategies: int = 4,
    unseen: int = 2,
    rounds: int = 20,
) -> Made:
    """A run of the given size."""
    names = list(STRATEGIES)[:strategies]
    clients = [f"person-{1600 + n}" for n in range(persons)]
    strangers = [f"person-{1700 + n}" for n in range(unseen)]
    outcomes = [outcome(name, clients, strangers, len(classes), rounds) for name in names]
    outcomes[0].failures = {
        clients[0]: ["round 3: no answer within 60 s", "round 4: no answer within 60 s"],
        clients[-1]: ["round 9: the answer holds NaN"],
    }
    config = Simulation(
        name="wearables",
        seed=3,
        rounds=rounds,
        strategy=names[0],
        baselines=tuple(names[1:]),
        strategies={names[0]: {"variant": "joint", "tau": [0.5, 1.5]}},
    )
    notes = ["Ten persons only: differences under .03 between methods are within the noise."]
    summary = summarise(config, "seglearn watch", classes, notes, outcomes)
    return Made(config, classes, outcomes, summary)


@pytest.fixture(scope="session")
def make() -> Callable[..., Made]:
    """The builder of made-up runs."""
    return build


@pytest.fixture(scope="session")
def small() -> Made:
    """Six persons, seven classes, four strategies; not to be changed."""
    return build()


@pytest.fixture(scope="session")
def written(small: Made, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run's folder; not to be changed."""
    folder = RunFolder.create("wearables", tmp_path_factory.mktemp("runs") / "one")
    folder.write_config(small.config)
    folder.write(small.summary, small.outcomes)
    return folder
