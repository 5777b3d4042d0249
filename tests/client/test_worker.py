"""What the process that learns makes of a task: objects in, objects out, any fault an answer."""

import errno
import hashlib
from dataclasses import replace

import numpy as np
import pytest

from client.adapters import KeptAdapters
from client.graphs import GraphStore
from client.windows import PersonWindows
from client.worker import Worker, arrays_of, bytes_of, windows_of
from schemas.drift import Drift
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.payload_object import pack, unpack
from schemas.plan import Plan
from tests.client import handmade


@pytest.fixture
def worker(tmp_path):
    handmade.windows(tmp_path / "windows")
    objects = ObjectStore(tmp_path / "objects", 1 << 26)
    graphs, adapters = GraphStore(tmp_path / "graphs"), tmp_path / "adapters"
    return Worker(objects, graphs, lambda: windows_of(tmp_path / "windows"), 7, adapters=adapters)


@pytest.fixture
def graphs(worker):
    made = {name: getattr(handmade, name)() for name in ("step", "statistics", "forward")}
    return {name: worker.graphs.put(data) for name, data in made.items()}


def asked(worker, action, payload=None, kept=None):
    body, others = pack(payload or Payload())
    for other in others.values():
        worker.objects.put(other)
    name = worker.objects.put(body).sha256
    return worker({"action": action, "payload": name, "kept": kept})


def answer(worker, said):
    return unpack(worker.objects.get(said["payload"]["sha256"]), worker.objects.get)


def test_training_keeps_what_coding_lost(worker, graphs):
    first = asked(worker, "train", handmade.training(graphs, 1))
    kept = arrays_of(worker.objects.get(first["kept"]))
    assert set(kept) == {"residual"}
    second = asked(worker, "train", handmade.training(graphs, 2), first["kept"])
    afresh = asked(worker, "train", handmade.training(graphs, 2))
    codes = [answer(worker, said).arrays["delta"]["codes"] for said in (second, afresh)]
    assert not np.array_equal(*codes)


def test_adapters_are_kept_on_the_disk_for_the_next_process(worker, graphs):
    plan = Plan(
        length=handmade.LENGTH,
        statistics=graphs["statistics"],
        report={"condition": graphs["forward"]},
        drift=Drift(backbone="ab" * 32, threshold=0.1),
    )
    told = Payload(config={"config": {"plan": plan.model_dump_json(), "server-round": 1}})
    said = answer(worker, asked(worker, "query.drift", told))
    assert said.config["drift"] == {"choice": "ask"}
    assert said.arrays["report"]["condition"].shape == (12, handmade.CHANNELS)
    kept = KeptAdapters(worker.adapters, "ab" * 32)
    kept.take(np.zeros(handmade.LENGTH, np.float32))
    said = answer(worker, asked(worker, "query.drift", told))
    assert said.config["drift"] == {"choice": "keep", "distance": 0.0}
    assert not said.arrays


def test_what_is_lost_on_the_disk_starts_afresh(worker, graphs):
    first = asked(worker, "train", handmade.training(graphs, 1))
    worker.objects.path(first["kept"]).write_bytes(b"spoilt")
    again = asked(worker, "train", handmade.training(graphs, 2), first["kept"])
    assert "error" not in again


def test_a_graph_in_the_cache_need_not_travel(worker):
    data = handmade.forward()
    worker.graphs.put(data)
    body, _ = pack(Payload(config={"graphs": {"0": data}}))
    said = worker(
        {"action": "query.install", "payload": worker.objects.put(body).sha256, "kept": None}
    )
    assert "error" not in said
    assert not worker.objects.has(hashlib.sha256(data).hexdigest())


def test_a_graph_that_a_power_cut_spoilt_is_missing_and_travels_again(worker):
    data = handmade.forward()
    digest = worker.graphs.put(data)
    path = worker.graphs.folder / f"{digest}.onnx"
    path.write_bytes(b"")
    told = Payload(config={"graphs": {"digests": [digest]}})
    assert answer(worker, asked(worker, "query.graphs", told)).config["graphs"] == {
        "missing": [digest]
    }
    body, others = pack(Payload(config={"graphs": {"0": data}}))
    request = {"action": "query.install", "payload": worker.objects.put(body).sha256, "kept": None}
    assert "is not on this device" in worker(request)["error"]
    assert not path.exists()
    for other in others.values():
        worker.objects.put(other)
    assert "error" not in worker(request)
    assert path.read_bytes() == data


def test_what_was_made_up_for_is_not_made_up_for_again(worker, graphs):
    """A plan that codes without a loss sends the residual, and none is left."""
    coded, whole = handmade.training(graphs, 1), handmade.training(graphs, 2)
    plan = whole.config["config"]["plan"].replace('"encoding":"int8"', '"encoding":"float32"')
    whole.config["config"]["plan"] = plan
    first = asked(worker, "train", coded)
    assert first["kept"]
    assert asked(worker, "train", whole, first["kept"])["kept"] == ""
    assert asked(worker, "train", whole)["kept"] is None


@pytest.mark.parametrize("lacking", ["a window", "any recording"])
def test_a_prediction_before_any_window_says_what_is_missing(worker, lacking):
    none = np.zeros((0, 4, 2), np.float32)

    def windows():
        if lacking == "a window":
            return PersonWindows(none, np.zeros(0, np.int64), none, np.zeros(0, np.int64))
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    worker.windows = windows
    said = worker({"action": "predict", "model": None, "bundle": None, "window": None})
    assert said == {
        "error": "LearnerError: no window was recorded here yet: give one, or wait for the sensor"
    }


def test_a_learned_model_without_a_window_says_the_same(worker, graphs):
    model = asked(worker, "train", handmade.training(graphs, 1))["model"]
    person = worker.windows()
    request = {"action": "predict", "model": model, "window": None}
    said = worker(request)
    assert (said["model"], "window_at" in said) == (model, False)
    worker.windows = lambda: replace(person, train=person.train[:0], test=person.test[:0])
    assert "no window was recorded here yet" in worker(request)["error"]


def test_place_and_begin(worker):
    place = asked(worker, "query.place")
    assert answer(worker, place).config["place"] == {"partition-id": 7}
    assert place["kept"] is None
    assert asked(worker, "query.begin")["kept"] == ""


@pytest.mark.parametrize(
    ("payload", "said"), [(Payload(), "no setting"), (Payload(config={"config": {}}), "'plan'")]
)
def test_a_fault_is_an_answer(worker, payload, said):
    assert said in asked(worker, "train", payload)["error"]


def test_bytes_that_are_no_payload(worker):
    name = worker.objects.put(b"FEP1 and more").sha256
    said = worker({"action": "train", "payload": name, "kept": None})
    assert said["error"].startswith("PayloadError")


def test_a_request_that_does_not_fit_is_an_answer(worker):
    said = worker({"action": "train", "payload": "ab" * 32})
    assert said == {"error": "MessageError: request: kept: missing; it has no default"}


def test_a_full_disk_is_said(worker, graphs, monkeypatch):
    question = handmade.training(graphs, 1)
    name = worker.objects.put(pack(question)[0]).sha256

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker.objects, "put", full)
    said = worker({"action": "train", "payload": name, "kept": None})
    assert said == {"error": "disk: No space left on device"}


def test_arrays_come_back_and_may_be_changed():
    arrays = {"a": np.arange(3, dtype=np.float32)}
    back = arrays_of(bytes_of(arrays))
    back["a"] += 1
    assert back["a"].tolist() == [1, 2, 3]


def test_windows_of_a_sensors_rings(tmp_path):
    from client.ring import Ring

    for name in ("train", "test"):
        ring = Ring(tmp_path / f"{name}.ring", 2, 1, 4, 1 << 16)
        ring.append([1.0, 2.0], 3)
        ring.close()
    found = windows_of(tmp_path, rings=True)
    assert isinstance(found, PersonWindows)
    assert found.train.tolist() == [[[1.0], [2.0]]]
    assert found.labels.tolist() == [3]
