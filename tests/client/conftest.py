"""A person, a store with real graphs, and plans that name them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.graphs import GraphStore
from client.learner import Learner
from client.windows import PersonWindows
from schemas.plan import Adapt, Plan, Train

LABELLED = [1, 2, 5, 8, 11, 14, 17, 20, 23]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> GraphStore:
    return GraphStore(tmp_path_factory.mktemp("device") / "graphs")


@pytest.fixture(scope="session")
def digest(store: GraphStore, graph: Callable[..., bytes]) -> Callable[..., str]:
    """Put a graph of ``graph``'s into the store; its digest."""
    return lambda *which: store.put(graph(*which))


@pytest.fixture
def person(windows: Callable[..., Any]) -> PersonWindows:
    """24 training windows, 9 of them labelled; 7 test windows."""
    labels = np.full(24, -1, np.int64)
    labels[LABELLED] = np.arange(9) % 3
    return PersonWindows(windows(24, 1), labels, windows(7, 2), np.arange(7) % 3)


@pytest.fixture
def learner(person: PersonWindows, store: GraphStore) -> Learner:
    return Learner(person, store)


@pytest.fixture(scope="session")
def vector(network: Callable[[str], Any]) -> Callable[..., NDArray[np.float32]]:
    """A network's start vector."""
    from hypernet.parameters import vector_of

    return lambda name="classifier": vector_of(network(name)).numpy().copy()


@pytest.fixture
def train(digest: Callable[..., str]) -> Callable[..., Train]:
    """A stage that learns: the classifier on labels, or the autoencoder without."""

    def make(**changed: Any) -> Train:
        unlabelled = changed.get("part") == "unlabelled"
        which = ("step", "mlp", "sgd") if unlabelled else ("step", "classifier", "adam")
        wanted = {"part": "labelled", "learning_rate": 0.01, "steps": 2, **changed}
        return Train(**({"graph": digest(*which, "frozen")} | wanted))

    return make


@pytest.fixture
def adapt(digest: Callable[..., str]) -> Callable[..., Adapt]:
    return lambda **changed: Adapt(graph=digest("adapt", "classifier"), **changed)


@pytest.fixture
def plan(
    digest: Callable[..., str], vector: Callable[..., NDArray[np.float32]]
) -> Callable[..., Plan]:
    """A plan of stages for a network."""

    def make(*stages: Any, network: str = "classifier", **more: Any) -> Plan:
        if network == "classifier":
            more.setdefault("predict", digest("forward", "classifier", "forward"))
        return Plan(
            length=vector(network).size, statistics=digest("statistics"), stages=stages, **more
        )

    return make
