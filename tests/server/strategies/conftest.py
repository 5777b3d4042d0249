"""One round of a strategy, by hand."""

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import ConfigRecord

from schemas.plan import Plan
from server.border import admit
from server.rounds import _own
from server.view import GridView


@pytest.fixture
def training(devices: Any) -> Callable[..., Any]:
    """The requests of a strategy's training round, and the plan in them."""

    def ask(strategy: Any, arrays: Any = None, number: int = 1, nodes: Any = (1, 2, 3, 4)) -> Any:
        view = GridView(devices([*nodes, 9], None), nodes)
        arrays = strategy.initial() if arrays is None else arrays
        config = ConfigRecord(dict(strategy.train_config()))
        return _own(strategy.configure_train(number, arrays, config, view))

    return ask


@pytest.fixture
def brief() -> Callable[[type[Any]], Any]:
    """A strategy's parameters, but next to no training at the server before the first round."""

    def make(kind: type[Any]) -> Any:
        known = kind.Parameters.model_fields
        steps = {"memory_steps": 2, "reconstruction_steps": 2, "server_steps": 2}
        return kind.Parameters(**{key: steps[key] for key in steps if key in known})

    return make


@pytest.fixture
def admitted() -> Callable[..., Any]:
    def take(requests: Any, replies: Any) -> Any:
        found = admit(requests, replies, 1e4, 60)
        assert not found.failures
        return found.updates

    return take


@pytest.fixture
def plan_of() -> Callable[..., Plan]:
    def read(config: Any) -> Plan:
        return Plan.model_validate_json(config["plan"])

    return read
