"""Bundles by order: proved, switched to, on probation, and back by themselves."""

import contextlib
import errno
import json
import os
import sqlite3
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from client import installer
from client.bundle.predictor import NotFiniteError, Predictor
from client.installed import Installed, Place
from client.installer import Installer
from client.messages import Done, MessageError, read_answer, write_answer, write_request
from client.store import Store
from client.windows import PersonWindows
from client.work import WorkError, WorkProcess
from schemas import wire
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.payload_object import pack
from schemas.signing import new_key, public_hex
from tests.client import small_models
from tests.client.orders import DEVICE, KEY, WINDOWS, Local, Pi, made


@pytest.fixture
def pi(tmp_path):
    pi = Pi(tmp_path / "pi")
    pi.start()
    yield pi
    pi.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two bundles that are signed and good."""
    folder = tmp_path_factory.mktemp("bundles")
    return [made(folder / f"{seed}.flwb", seed) for seed in range(2)]


def name(data):
    return sha256(data).hexdigest()


def person(windows):
    none = np.full(len(windows), -1, np.int64)
    return PersonWindows(windows, none, windows[:0], none[:0])


def not_finite():
    raise NotFiniteError("the model made NaN or infinity")


def full(monkeypatch, store):
    """The disk takes nothing more, until ``undo``."""

    def refuse(*_):
        raise sqlite3.OperationalError("database or disk is full")

    for writes in ("set", "begin", "finish", "end", "take"):
        monkeypatch.setattr(store, writes, refuse)


def logarithm():
    """A model that makes NaN of what is negative."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ReduceMean", ["windows"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Log", ["mean"], ["log"]),
        helper.make_node("Concat", ["log", "one"], ["logits"], axis=1),
        helper.make_node("ReduceSum", ["log", "axis"], ["one"], keepdims=1),
    ]
    nodes[2], nodes[3] = nodes[3], nodes[2]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        nodes,
        "log",
        [value("windows", TensorProto.FLOAT, ["batch", 40, 3])],
        [value("logits", TensorProto.FLOAT, ["batch", 4])],
        [axis],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def test_an_order_is_proved_and_predicts(pi, files):
    report = pi.done(pi.order(files[0], seconds=0))
    assert report["sha256"] == name(files[0]) == pi.current
    assert report["windows"] == 20
    assert 0 < report["latency_us"] < 1e6
    found = pi.predict(WINDOWS[0].tolist())
    assert found["name"] in small_models.CLASSES
    assert pi.daemon.status()["bundle"] == {
        "current": pi.current, "previous": None, "probation": None
    }  # fmt: skip


def test_the_last_good_one_is_kept_and_no_other(pi, files, tmp_path):
    third = made(tmp_path / "3.flwb", 2)
    for file in (*files, third):
        pi.done(pi.order(file))
    pi.hub.until(lambda: pi.files == {name(files[1]), name(third)})
    record = pi.daemon.bundles.installed.record
    assert record.previous.sha256 == name(files[1])
    pi.hub.until(lambda: not pi.objects.names())


def test_the_same_order_again_answers_and_changes_nothing(pi, files):
    pi.done(pi.order(files[0]))
    pi.done(pi.order(files[1]))
    pi.done(pi.order(files[1]))
    assert pi.current == name(files[1])
    assert pi.daemon.bundles.installed.record.previous.sha256 == name(files[0])
    assert len([sha for sha, _ in pi.hub.asked if sha == name(files[1])]) == 1


def test_an_order_to_go_back(pi, files):
    pi.done(pi.order(files[0]))
    pi.done(pi.order(files[1]))
    for _ in range(2):  # said twice, it goes back once
        pi.done(pi.order(files[1], action="bundle.back"))
        assert pi.current == name(files[0])


def test_a_difference_pulls_its_base_only_where_it_is_not_here(pi, tmp_path):
    base = tmp_path / "base.flwb"
    shared = made(base, model=small_models.codes())
    deltas = [
        made(tmp_path / f"{n}", model=small_models.codes(spread=n), base=base) for n in (1, 2)
    ]
    for delta in deltas:
        assert len(delta) < len(shared)
        pi.done(pi.order(delta, shared))
        assert pi.current == name(delta)
        pi.predict(WINDOWS[0].tolist())
    assert [sha for sha, _ in pi.hub.asked].count(name(shared)) == 1
    pi.hub.until(lambda: pi.files == {name(shared), *map(name, deltas)})


def test_bad_ones_are_refused_by_name_and_the_good_one_stays(pi, files, tmp_path):
    pi.done(pi.order(files[0]))
    spoilt = bytearray(files[1])
    spoilt[-3] ^= 1
    old = bytearray(files[1])
    old[8] = 0
    positive = np.abs(WINDOWS[:2])
    cases = {
        "its bytes were altered": (bytes(spoilt), {}),
        "format 0; this flwr-edge reads 1. It is older": (bytes(old), {}),
        "not signed": (made(tmp_path / "1", key=None), {}),
        "not of the fleet's key": (made(tmp_path / "2", key=new_key()), {}),
        "is no bundle": (b"x" * 999, {}),
        "truncated": (files[1][:-40], {}),
        "made NaN or infinity": (
            made(tmp_path / "3", model=logarithm(), reference=positive, bits=32),
            {},
        ),
        "us here; at most": (files[1], {"latency_us": 0.001}),
        "ordered was": (files[1], {"bundle": "0" * 64}),
        "this device has (40, 3)": (
            made(
                tmp_path / "5",
                model=small_models.floats(time=30).SerializeToString(),
                input=small_models.card().input.model_copy(update={"time": 30}),
            ),
            {},
        ),
    }
    for said, (file, changed) in cases.items():
        reason = pi.failed(pi.order(file, **changed))
        assert said in reason or (said == "truncated" and "by its manifest" in reason), reason
        assert pi.current == name(files[0])
    pi.hub.until(lambda: pi.files == {name(files[0])})


def test_an_older_bundle_and_another_backbone_need_leave(pi, files, tmp_path):
    pi.done(pi.order(files[1], published=2e9))
    assert "was published 2001-09-09" in pi.failed(pi.order(files[0], published=1e9))
    pi.done(pi.order(files[0], published=1e9, downgrade=True))
    shared = made(tmp_path / "a", seed=3, backbone="ab" * 32)
    pi.done(pi.order(shared, published=3e9))
    reason = pi.failed(pi.order(made(tmp_path / "b", seed=4, backbone="cd" * 32), published=3e9))
    assert "from the backbone cdcdcdcdcdcdcdcd; installed is a bundle of abababababababab" in reason
    assert "--other-backbone" in reason
    pi.done(pi.order((tmp_path / "b").read_bytes(), published=3e9, other_backbone=True))


def test_claims_that_are_lies_are_refused(pi, tmp_path):
    from client.bundle.claims import where
    from schemas.bundle import Expected

    said = Expected(latency_us=0.001, machine=where())
    assert "expected.latency_us" in pi.failed(pi.order(made(tmp_path / "a", expected=said)))


def test_a_large_one_is_refused_before_it_is_pulled(tmp_path, files):
    pi = Pi(tmp_path / "pi").start(bundle_bytes=1000)
    try:
        assert "at most 1000" in pi.failed(pi.order(files[0]))
        assert not pi.hub.asked
    finally:
        pi.close()


def test_only_the_fleets_orders(tmp_path, files):
    pi = Pi(tmp_path / "pi").start(fleet_key=public_hex(KEY))
    try:
        assert "not of the fleet's key" in pi.failed(pi.order(files[0], key=new_key()))
        assert not pi.hub.asked
        pi.done(pi.order(files[0]))
    finally:
        pi.close()


def test_one_attempt_is_enough_for_a_good_one(tmp_path, files):
    """An order asks twice; an attempt that finished counts no more."""
    pi = Pi(tmp_path / "pi")
    pi.start(attempts=1)
    try:
        assert pi.done(pi.order(files[0], seconds=0))["sha256"] == name(files[0]) == pi.current
    finally:
        pi.close()


def test_a_crash_in_the_self_test_is_an_answer(pi, files):
    def crash(request):
        raise WorkError("the process that learns was ended by signal 11")

    pi.work.fault = crash
    assert "self-test: the process that learns was ended by signal 11" in pi.failed(
        pi.order(files[0])
    )
    pi.work.fault = lambda _: None
    pi.done(pi.order(files[0]))


def test_a_process_that_really_dies_is_an_answer_too(tmp_path, files):
    script = "import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 11)"
    work = WorkProcess({}, (sys.executable, "-c", script))
    pi = Pi(tmp_path / "pi").start(work=work)
    try:
        reason = pi.failed(pi.order(files[0]))
        assert reason == "its self-test: the process that learns was ended by signal 11"
        assert pi.current is None
    finally:
        pi.close()


def test_a_link_lost_in_the_middle_of_the_download_resumes(pi, tmp_path):
    large = made(tmp_path / "large", model=small_models.codes(width=20_000))
    chunks = -(-len(large) // wire.CHUNK)
    assert chunks > 2
    pi.hub.serve = lambda number: number < 1
    task = pi.order(large)
    pi.hub.until(lambda: (name(large), 1) in pi.hub.asked)
    pi.broker.cut(DEVICE)
    pi.stop()  # the power too
    pi.hub.serve = lambda _: True
    pi.start()
    pi.done(task)
    assert pi.current == name(large)
    assert [asked for asked in pi.hub.asked if asked == (name(large), 0)] == [(name(large), 0)]


def test_a_device_without_windows_proves_on_the_reference(tmp_path, files):
    pi = Pi(tmp_path / "pi").start(windows=WINDOWS[:0])
    try:
        assert pi.done(pi.order(files[0]))["windows"] == 0
    finally:
        pi.close()


class TestProbation:
    @pytest.fixture
    def on(self, pi, files):
        """The second bundle is on probation; its task."""
        pi.done(pi.order(files[0]))
        task = pi.order(files[1], seconds=100.0, predictions=3)
        pi.hub.until(lambda: pi.current == name(files[1]))
        assert pi.hub.kinds(task) == ["accepted"]
        return task

    def test_it_ends_with_so_many_predictions(self, pi, on, files):
        for _ in range(3):
            pi.predict(WINDOWS[0].tolist())
        pi.done(on)
        assert pi.current == name(files[1])

    def test_or_with_the_time(self, pi, on, files):
        pi.clock.now += 101
        pi.done(on)
        assert pi.daemon.bundles.installed.record.probation is None

    def test_tasks_go_on_meanwhile_and_orders_wait(self, pi, on, files):
        other = pi.order(files[0])
        pi.hub.until(lambda: "accepted" in pi.hub.kinds(other))
        assert pi.daemon.bundles.installed.on_probation(name(files[1]))
        pi.clock.now += 101
        pi.done(on)
        pi.done(other)
        assert pi.current == name(files[0])

    @pytest.mark.parametrize("how", ["NaN", "crash", "slow"])
    def test_a_fault_goes_back_at_once_and_is_told(self, pi, on, files, how):
        def fault(request):
            if request["action"] != "predict" or request["bundle"]["sha256"] != name(files[1]):
                return None
            if how == "crash":
                raise WorkError("the process that learns was ended by signal 11")
            if how == "slow":
                found = pi.work.worker(request)
                return {**found, "microseconds": 9e9}
            return {"error": "NotRunnableError: the model made NaN or infinity", "fault": True}

        pi.work.fault = fault
        pi.clock.now += 1
        said = {"NaN": "NaN", "crash": "signal 11", "slow": "3 predictions were too slow"}[how]
        for _ in range(3 if how == "slow" else 1):
            assert pi.predict(WINDOWS[0].tolist())["name"] in small_models.CLASSES
        assert pi.current == name(files[0])
        assert said in pi.failed(on)
        pi.hub.until(lambda: pi.files == {name(files[0])})

    def test_a_bad_question_is_no_fault_of_the_bundle(self, pi, on, files):
        with pytest.raises(RuntimeError, match=r"expected \(windows, 40, 3\)"):
            pi.predict([[1.0]])
        assert pi.current == name(files[1])

    def test_nor_is_an_answer_that_does_not_fit(self, pi, on, files):
        def untimed(request):
            found = pi.work.worker(request)
            found.pop("microseconds")
            return found

        pi.work.fault = untimed
        with pytest.raises(MessageError, match="answer Timed: microseconds: missing"):
            pi.predict(WINDOWS[0].tolist())
        assert pi.current == name(files[1])

    def test_it_goes_back_where_its_last_self_test_fails(self, pi, on, files):
        pi.work.fault = lambda r: {"error": "late"} if r["action"] == "bundle" else None
        pi.clock.now += 101
        assert pi.failed(on) == "late"
        assert pi.current == name(files[0])

    def test_a_cancelled_order_goes_back(self, pi, on, files):
        pi.hub.tell(wire.envelope(wire.Cancel(task=on), ttl=60.0))
        pi.hub.until(lambda: pi.current == name(files[0]))

    def test_an_expired_one_too(self, pi, files):
        pi.done(pi.order(files[0]))
        pi.order(files[1], seconds=100.0, ttl=50.0)
        pi.hub.until(lambda: pi.current == name(files[1]))
        pi.clock.now += 51
        pi.hub.until(lambda: pi.current == name(files[0]))

    def test_a_restart_goes_on_and_many_go_back(self, pi, on, files):
        for _ in range(3):
            pi.stop()
            pi.start()
            assert pi.current == name(files[1])
        pi.stop()
        pi.start()
        assert pi.current == name(files[0])
        assert "was started 4 times" in pi.failed(on)

    def test_an_extreme_window_of_a_program_here_ends_no_roll_out(self, pi, on, files):
        for value in (3e38, -3e38):
            with pytest.raises(RuntimeError, match="NaN or infinity, of this window"):
                pi.predict(np.full((40, 3), value).tolist())
        assert pi.current == name(files[1])
        assert pi.daemon.bundles.installed.on_probation(name(files[1]))
        pi.clock.now += 101
        pi.done(on)

    def test_nor_does_one_that_a_sensor_gave(self, pi, on, files):
        pi.work.worker.windows = lambda: person(np.full((1, 40, 3), 3e38, np.float32))
        with pytest.raises(RuntimeError, match="NaN or infinity, of this window"):
            pi.predict()
        assert pi.current == name(files[1])
        pi.clock.now += 101
        assert pi.done(on)["windows"] == 0

    def test_a_window_that_ends_the_process_where_the_reference_does_not(self, pi, on, files):
        def fault(request):
            if request["action"] == "predict" and request["window"] is not None:
                raise WorkError("the process that learns was ended by signal 11")

        pi.work.fault = fault
        with pytest.raises(WorkError, match="signal 11"):
            pi.predict(WINDOWS[0].tolist())
        assert pi.current == name(files[1])

    def test_a_bundle_that_fails_its_reference_input_goes_back(self, pi, on, files, monkeypatch):
        logits, sha = Predictor.logits, name(files[1])

        def breaks(self, windows):
            bad = pi.daemon.bundles.installed.on_probation(sha)
            return not_finite() if bad else logits(self, windows)

        monkeypatch.setattr(Predictor, "is_sound", lambda self: False)
        monkeypatch.setattr(Predictor, "logits", breaks)
        assert pi.predict(WINDOWS[0].tolist())["name"] in small_models.CLASSES
        assert pi.current == name(files[0])
        assert "NaN or infinity" in pi.failed(on)

    def test_a_full_disk_ends_no_prediction_and_no_count(self, pi, on, files, monkeypatch, caplog):
        full(monkeypatch, pi.store)
        for _ in range(3):
            assert pi.predict()["name"] in small_models.CLASSES
        assert pi.daemon.bundles.installed.record.probation.made == 3
        monkeypatch.undo()
        pi.done(on)
        said = [one.message for one in caplog.records if one.name != "flwr_edge.runner"]
        assert sum("how a bundle does on probation cannot be noted" in one for one in said) == 1
        assert sum("the last prediction cannot be noted" in one for one in said) == 1

    def test_counts_are_on_the_disk_at_most_once_a_minute(self, pi, on, files, monkeypatch):
        noted = []
        monkeypatch.setattr(pi.store, "set", lambda key, value: noted.append(key))
        for _ in range(2):
            pi.predict()
        assert sorted(noted) == ["bundle", "prediction"]

    def test_a_fault_on_a_full_disk_has_the_last_good_one_predict(
        self, pi, on, files, monkeypatch, caplog
    ):
        def fault(request):
            if request["action"] == "predict" and request["bundle"]["sha256"] == name(files[1]):
                return {"error": "NotFiniteError: NaN", "fault": True}
            return None

        pi.work.fault = fault
        full(monkeypatch, pi.store)
        assert pi.predict(WINDOWS[0].tolist())["name"] in small_models.CLASSES
        assert pi.current == name(files[0])
        assert pi.daemon.bundles.installed.on_probation(name(files[1]))
        monkeypatch.undo()
        pi.clock.now += 101
        assert "NaN" in pi.failed(on)
        assert pi.daemon.bundles.installed.record.current.sha256 == name(files[0])


def test_a_start_on_a_full_disk_during_probation(tmp_path, files, monkeypatch):
    """It counts, and the daemon starts: who operates it must reach it."""
    life = Life(tmp_path)
    place = Place(sha256=name(files[0]))
    life.installed.switch("1" * 32, place, 100, 1e6)
    full(monkeypatch, life.store)
    for _ in range(4):
        life.installed.started()
    assert life.installed.record.probation.starts == 4
    assert life.installed.serving() is None
    assert "was started 4 times" in life.installed.aside
    life.store.close()


def test_one_window_out_of_a_sensors_range_fails_no_self_test(tmp_path, files):
    glitch = WINDOWS.copy()
    glitch[7] = 3e38
    pi = Pi(tmp_path / "pi").start(windows=glitch)
    try:
        assert pi.done(pi.order(files[0]))["windows"] == len(WINDOWS) - 1
    finally:
        pi.close()


def spoil(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))  # as after a restart: it is opened afresh


class TestSpoiltOnTheDisk:
    """A bundle that was confirmed, and whose file a power cut or an SD card spoilt."""

    @pytest.fixture
    def path(self, pi, files):
        pi.done(pi.order(files[0]))
        pi.done(pi.order(files[1]))
        return pi.daemon.bundles.installed.path(name(files[1]))

    @pytest.mark.parametrize("how", [spoil, Path.unlink, lambda path: path.write_bytes(b"")])
    def test_the_last_good_one_predicts_and_it_is_said_once(self, pi, path, files, how, caplog):
        before = [pi.predict(x.tolist())["scores"] for x in WINDOWS[:3]]
        how(path)
        after = [pi.predict(x.tolist())["scores"] for x in WINDOWS[:3]]
        assert after != before
        assert pi.work.actions.count("predict") == 7  # the spoilt one was tried once
        found = pi.daemon.status()["bundle"]
        assert found["current"] == name(files[1])
        assert found["fault"].endswith(f"{name(files[0])[:12]} predicts now")
        assert caplog.text.count("cannot be used now") == 1

    @pytest.mark.parametrize("how", [spoil, Path.unlink])
    def test_the_same_roll_out_again_mends_it(self, pi, path, files, how):
        how(path)
        pi.predict()
        assert pi.current == name(files[0])
        pi.done(pi.order(files[1]))
        assert path.read_bytes() == files[1]
        assert pi.current == name(files[1])
        pi.predict()
        assert "fault" not in pi.daemon.status()["bundle"]
        assert pi.daemon.bundles.installed.record.previous.sha256 == name(files[0])

    def test_it_is_tried_again_later(self, pi, path, files):
        data = path.read_bytes()
        path.unlink()
        pi.predict()
        path.write_bytes(data)
        pi.clock.now += 601
        pi.predict()
        assert pi.current == name(files[1])
        assert "fault" not in pi.daemon.status()["bundle"]

    def test_a_spoilt_base_is_pulled_again(self, pi, tmp_path):
        base = tmp_path / "base.flwb"
        shared = made(base, model=small_models.codes())
        first = made(tmp_path / "1", model=small_models.codes(spread=1), base=base)
        pi.done(pi.order(first, shared))
        spoil(pi.daemon.bundles.installed.path(name(shared)))
        with pytest.raises(RuntimeError, match="bytes were altered"):
            pi.predict()
        assert "bytes were altered" in pi.daemon.status()["bundle"]["fault"]
        pi.done(pi.order(first, shared))
        pi.predict()
        assert pi.current == name(first)

    def test_without_another_model_it_says_what_is_wrong(self, pi, files):
        pi.done(pi.order(files[0]))
        spoil(pi.daemon.bundles.installed.path(name(files[0])))
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"not of the fleet's key|were altered"):
                pi.predict()
        assert pi.work.actions.count("predict") == 1

    def test_a_disk_that_cannot_read_it_now_loses_no_bundle(self, pi, path, files, monkeypatch):
        def fails(path):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(installer, "_digest", fails)
        assert not pi.daemon.bundles.has(name(files[1]))
        assert path.exists()


class PowerCut(BaseException):
    """Nothing after it is done."""


def steps(monkeypatch):
    """Count what reaches the disk; ``cut[0]`` says at which of these steps the power fails."""
    cut, count = [0], [0]

    def watched(act):
        def step(*arguments, **named):
            for after in (False, True):
                count[0] += 1
                if count[0] == cut[0]:
                    raise PowerCut
                if not after:
                    found = act(*arguments, **named)
            return found

        return step

    monkeypatch.setattr(installer, "sync_folder", watched(installer.sync_folder))
    monkeypatch.setattr(Store, "set", watched(Store.set))
    monkeypatch.setattr(Store, "begin", watched(Store.begin))
    return cut, count


class Life:
    """A device's disk between two power cuts, and what the runner does with it; no threads."""

    def __init__(self, folder) -> None:
        self.store = Store(folder / "s.sqlite", lambda: 1.0, "boot")
        self.objects = ObjectStore(folder / "objects", 1 << 26)
        self.work = Local(folder, self.objects)
        self.installed = Installed(self.store, folder / "bundles")
        self.installer = Installer(self.store, self.objects, self.installed)

    def order(self, number, file):
        body, _ = pack(Payload(config={"bundle": {"bundle": name(file), "seconds": 0.0}}))
        refs = self.objects.put(body), self.objects.put(file)
        task = wire.Task(run="r", action="bundle", payload=refs[0], objects=refs[1:])
        self.store.take(f"{number:032x}", "r", task.model_dump(mode="json"), 60.0)

    def go_on(self):
        """Do each queued task; the answers."""
        said = [self.do(row) for row in self.store.open("queued")]
        self.installer.tidy(self.store.open())
        return said

    def do(self, row):
        def ask(request, kind):
            self.store.begin(row.id)
            return read_answer(kind, self.work.ask(write_request(request), 1.0, lambda: False))

        task = wire.Task.model_validate_json(json.dumps(row.body))
        done = self.installer.do(row, task, ask)
        self.store.finish(row.id, {"kind": "result", **write_answer(done)})
        return done


def cut_at(folder, files, cut, count, at) -> int:
    """Install the second bundle over the first, the power failing at a step; how many there are."""
    cut[0] = 0
    life = Life(folder)
    life.order(1, files[0])
    life.go_on()
    life.order(2, files[1])
    count[0], cut[0] = 0, at
    with pytest.raises(PowerCut) if at else contextlib.nullcontext():
        life.go_on()
    taken, cut[0] = count[0], 0
    life.store.close()
    again = Life(folder)
    place = again.installed.serving()
    assert place.sha256 in map(name, files)
    assert name(Path(place.path).read_bytes()) == place.sha256
    for said in again.go_on():
        assert isinstance(said, Done)
    assert again.installed.serving().sha256 == name(files[1])
    assert again.installed.record.previous.sha256 == name(files[0])
    assert not again.store.open("queued")
    again.store.close()
    return taken


def test_a_power_cut_at_each_step_leaves_a_good_bundle_and_the_order_is_done(
    tmp_path, files, monkeypatch
):
    cut, count = steps(monkeypatch)
    most = cut_at(tmp_path / "0", files, cut, count, 0)
    assert most >= 8
    for at in range(1, most + 1):
        cut_at(tmp_path / str(at), files, cut, count, at)
