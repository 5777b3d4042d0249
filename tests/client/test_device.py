"""How a device answers whether it has drifted, and what it is then judged with."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from client.adapters import AdapterError
from client.device import Device
from client.graphs import GraphStore
from client.learner import Learner, LearnerError
from client.windows import PersonWindows
from schemas.drift import Drift
from schemas.payload import Payload, PayloadError
from schemas.plan import Plan
from tests.client import handmade

BACKBONE, OTHER = "ab" * 32, "cd" * 32
SHAPE = (12, handmade.TIME, handmade.CHANNELS)


def day(seed):
    """A day's windows; the condition is each window's mean, as the handmade graph makes it."""
    x = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
    y = np.zeros(12, np.int64)
    return PersonWindows(x, y - 1, x, y)


@pytest.fixture
def graphs(tmp_path):
    store = GraphStore(tmp_path / "graphs")
    made = {name: store.put(getattr(handmade, name)()) for name in ("statistics", "forward")}
    return store, made


@pytest.fixture
def device(graphs, tmp_path):
    """A device on some day; its folder of adapters is the same on all of them."""

    def make(seed, folder="adapters", windows=None):
        learner = Learner(windows or day(seed), graphs[0])
        return Device(graphs[0], lambda: learner, 1, adapters=folder and tmp_path / folder)

    return make


@pytest.fixture
def ask(graphs):
    def asked(device, action, weights=None, noise=0.0, drift=True, carried=(), **fields):
        told = Drift(**({"backbone": BACKBONE, "threshold": 0.3} | fields)) if drift else None
        plan = Plan(
            length=handmade.LENGTH,
            statistics=graphs[1]["statistics"],
            predict=graphs[1]["forward"],
            report={"condition": graphs[1]["forward"]} if action == "query.drift" else {},
            drift=told,
            carried=carried,
            noise=noise,
        )
        payload = Payload(config={"config": {"plan": plan.model_dump_json(), "server-round": 1}})
        if weights is not None:
            payload.arrays["arrays"] = {"weights": weights}
        return device.answer(action, payload)

    return asked


def weights(value=1.0, length=handmade.LENGTH):
    return np.full(length, value, np.float32)


NONE = np.zeros(0, np.float32)


def test_a_device_asks_keeps_and_brings_back(device, ask):
    choices = []
    for seed in (1, 1, 2, 1):
        answer = ask(device(seed), "query.drift")
        choices.append(answer.config["drift"]["choice"])
        asked = choices[-1] == "ask"
        assert ("report" in answer.arrays) == asked, "a condition leaves the device where it asks"
        ask(device(seed), "evaluate", weights(seed) if asked else NONE)
    assert choices == ["ask", "keep", "ask", "back"]
    plan = {"backbone": BACKBONE}
    _, _, fitted = device(1).personalised(_evaluation(device, ask, plan))
    np.testing.assert_array_equal(fitted.weights, weights(1))


def _evaluation(device, ask, fields):
    """The payload of an evaluation without weights."""
    caught = []
    one = device(1)
    one.answer = lambda action, payload: caught.append(payload)
    ask(one, "evaluate", NONE, **fields)
    return caught[0]


def test_what_is_carried_goes_from_day_to_day_whatever_the_adapter(device, ask):
    carried = ((0, 1), (2, 4))

    def fitted(fields, value=None):
        told = NONE if value is None else weights(value)
        caught = []
        one = device(1)
        one.answer = lambda action, payload: caught.append(payload)
        ask(one, "evaluate", told, **fields)
        return device(1).personalised(caught[0])[2].weights

    ask(device(1), "query.drift")
    first = fitted({"carried": carried}, 1.0)
    assert (first == 1).all()
    ask(device(1), "query.drift", threshold=0.0)
    second = fitted({"carried": carried}, 5.0)
    assert second[[0, 2, 3]].tolist() == [1, 1, 1]
    assert (np.delete(second, [0, 2, 3]) == 5).all()
    np.testing.assert_array_equal(fitted({}), weights(5))  # the adapter itself is as it came
    ask(device(1), "query.drift", begin=True)
    assert (fitted({"carried": carried}, 7.0) == 7).all()


def test_a_life_begins_without_adapters(device, ask):
    ask(device(1), "query.drift")
    ask(device(1), "evaluate", weights())
    assert ask(device(1), "query.drift").config["drift"]["choice"] == "keep"
    assert ask(device(1), "query.drift", begin=True).config["drift"] == {"choice": "ask"}


def test_noise_is_in_what_is_told_alone(device, ask):
    first = ask(device(1), "query.drift", noise=5.0)
    assert not np.allclose(first.arrays["report"]["condition"], day(1).train.mean(1), atol=0.5)
    ask(device(1), "evaluate", weights())
    again = ask(device(1), "query.drift", noise=5.0)
    assert again.config["drift"] == {"choice": "keep", "distance": 0.0}


def test_without_a_folder_a_device_asks_each_time(device, ask):
    for _ in range(2):
        assert ask(device(1, folder=None), "query.drift").config["drift"]["choice"] == "ask"
        ask(device(1, folder=None), "evaluate", weights())
    with pytest.raises(AdapterError, match="no adapter of backbone"):
        ask(device(1, folder=None), "evaluate", NONE)


def test_another_backbones_adapters_are_not_used(device, ask):
    ask(device(1), "query.drift")
    ask(device(1), "evaluate", weights())
    with pytest.raises(AdapterError, match=r"no adapter of backbone cdcd.*dropped"):
        ask(device(1), "evaluate", NONE, backbone=OTHER)
    assert ask(device(1), "query.drift", backbone=OTHER).config["drift"] == {"choice": "ask"}


def test_what_does_not_fit_is_refused(device, ask):
    with pytest.raises(PayloadError, match="says nothing of drift"):
        ask(device(1), "query.drift", drift=False)
    broken = replace(day(1), train=np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(AdapterError, match="finite"):
        ask(device(1, windows=broken), "query.drift")
    ask(device(1), "query.drift")
    with pytest.raises(AdapterError, match="7 numbers of"):
        ask(device(1), "evaluate", weights(length=7))
    with pytest.raises(AdapterError, match="finite float32"):
        ask(device(1), "evaluate", weights(np.nan))
    ask(device(1), "evaluate", weights())
    with pytest.raises(LearnerError, match="float32"):
        ask(device(1), "evaluate", NONE, drift=False)
    with pytest.raises(ValidationError):
        ask(device(1), "query.drift", backbone="short")
