"""The daemon as a process: its memory, how fast it starts, its local API, a full disk."""

import contextlib
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from client import bundle, start
from client.config import Broker, DaemonConfig
from client.local_api import ApiError, ask
from client.windows import PersonWindows
from edge_kernels.quantize.calibrate import quantized_values
from edge_kernels.quantize.range_graph import range_graph
from edge_kernels.quantize.reader import read
from schemas import signing
from schemas.base import ConfigError
from schemas.link import PahoLink
from schemas.payload import Payload
from schemas.ranges import RangeTask
from tests.client import handmade, small_models
from tests.client.hub import Hub
from tests.client.process import DEVICE, Process, install
from tests.client.test_store import fill, small_disk, truncated
from tests.mosquitto import running


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with running(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def hub(broker):
    link = PahoLink("127.0.0.1", broker.port, "server")
    hub = Hub(link, DEVICE)
    assert link.wait_connected(30)
    yield hub
    link.publish(f"flwr/v1/{DEVICE}/state", b"", retain=True)
    link.close()


@pytest.fixture
def process(broker, hub, tmp_path):
    handmade.windows(tmp_path / "windows")
    process = Process(tmp_path, broker.port)
    yield process
    process.end()
    process.log.close()


def started(hub, process) -> None:
    process.start()
    hub.until(lambda: hub.states and hub.states[-1].online)


def resident(pid) -> float:
    """MiB."""
    (line,) = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) / 1024


def test_why_it_is_not_connected(tmp_path):
    """A person at the device has no log of the broker's."""
    handmade.windows(tmp_path / "windows")
    with running(tmp_path / "broker") as broker:
        broker.kill()
        process = Process(tmp_path, broker.port)
        process.start()
        try:
            down = status_until(tmp_path / "s", lambda said: "link" in said)
            assert (down["connected"], down["link"]) == (False, "[Errno 111] Connection refused")
            broker.start()
            assert "link" not in status_until(tmp_path / "s", lambda said: said["connected"])
        finally:
            process.end()
            process.log.close()


def status_until(socket, found):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(ApiError):  # it has just begun
            if found(said := ask(socket, "status")):
                return said
        time.sleep(0.1)
    raise AssertionError


def test_a_password_in_its_file_may_change(tmp_path, caplog):
    path = tmp_path / "password"
    with pytest.raises(ConfigError, match=r"broker\.password_file: .*No such file"):
        start.PasswordFile(path)
    path.write_text("one\nnot this\n")
    password = start.PasswordFile(path)
    assert password() == "one"
    path.write_text("two")
    assert password() == "two"
    path.unlink()
    assert password() == "two"
    assert "password: [Errno 2] No such file" in caplog.text
    assert "what it held before is used" in caplog.text


def test_the_link_asks_the_file_of_the_password(tmp_path):
    (tmp_path / "password").write_text("one")
    broker = Broker(username="me", password_file=tmp_path / "password")
    link = start._link("pi-1", broker)
    (tmp_path / "password").write_text("two")
    assert link._password() == "two"
    link.close()


def test_a_card_full_of_windows_has_time_to_be_read(tmp_path, monkeypatch):
    """All are checked before READY=1, after which the unit's timeout would start it afresh."""
    said = []
    monkeypatch.setattr("client.start.sd_notify", said.append)
    (tmp_path / "pi.toml").write_text(
        'device = "pi-1"\n[windows]\nsource = "pipe"\n'
        f'settings = {{ path = "{tmp_path / "imu"}", time = 1, channels = 1 }}\n'
    )
    config = DaemonConfig.load(tmp_path / "pi.toml").model_copy(update={"state": tmp_path})
    (tmp_path / "windows").mkdir()
    with (tmp_path / "windows" / "train.ring").open("wb") as file:
        file.truncate(4 << 30)  # it is sparse, and no ring
    start._gatherer(config).stop()
    assert said == ["EXTEND_TIMEOUT_USEC=1084000000"]


def test_small(hub, process):
    """With a fleet key too: 45 MiB connected and idle, before the first task and after it."""
    key = signing.new_key()
    text = process.config.read_text()
    process.config.write_text(f'fleet_key = "{signing.public_hex(key)}"\n{text}')
    started(hub, process)  # how soon: flwr-edge bench footprint
    time.sleep(0.5)
    assert resident(process.child.pid) < 45
    asked = Payload(config={"graphs": {"digests": []}})
    hub.answered(
        hub.task("query.graphs", asked, change=lambda e: signing.sign_task(key, DEVICE, e))
    )
    assert resident(process.child.pid) < 45


def test_what_it_says_to_programs_here(hub, process):
    started(hub, process)
    api = process.folder / "s"
    assert ask(api, "status")["connected"]
    with pytest.raises(ApiError, match="no model yet"):
        ask(api, "predict")
    graphs = install(hub)
    hub.answered(hub.task("train", handmade.training(graphs, 1)))
    hub.until(lambda: ask(api, "status")["task"] is None)
    x = np.load(process.folder / "windows" / "train.npy")
    newest = ask(api, "predict", timeout=20)
    assert newest["class"] == x[-1].mean(0).argmax()
    assert sum(newest["scores"]) == pytest.approx(1)
    assert ask(api, "prediction") == newest
    given = ask(api, "predict", window=[[0.0, 5.0]] * handmade.TIME)
    assert given["class"] == 1
    assert ask(api, "prediction") == newest
    with pytest.raises(ApiError, match="expected finite"):
        ask(api, "predict", window=[[1.0]])
    ask(api, "pause")
    assert hub.until(lambda: hub.states[-1].paused)
    ask(api, "resume")


def test_predictions_of_a_bundle(hub, process):
    """Before any task; another file in its place is taken at the next prediction."""
    path, card = process.folder / "ann.flwb", small_models.card(
        bits=32,
        form="qdq",
        input=bundle.Input(time=handmade.TIME, channels=handmade.CHANNELS, hz=20.0),
    )  # fmt: skip
    models = [small_models.floats(seed, handmade.TIME, handmade.CHANNELS) for seed in (0, 1)]
    bundle.write(path, card, models[0].SerializeToString())
    text = process.config.read_text()
    process.config.write_text(text.replace("[windows]", '[model]\nbundle = "ann.flwb"\n[windows]'))
    started(hub, process)
    api, x = process.folder / "s", np.load(process.folder / "windows" / "train.npy")
    for model in models:
        right = int(small_models.logits_of(model, x[-1:]).argmax())
        newest = ask(api, "predict", timeout=20)
        assert (newest["class"], newest["name"]) == (right, small_models.CLASSES[right])
        assert ask(api, "prediction") == newest
        bundle.write(path, card, models[1].SerializeToString())
    with pytest.raises(ApiError, match=r"expected \(windows, 5, 2\)"):
        ask(api, "predict", window=[[1.0]])


def test_counts_of_the_windows_over_the_broker(hub, process):
    x = np.random.default_rng(0).standard_normal((20, handmade.TIME, handmade.CHANNELS))
    none = np.full(20, -1, np.int64)
    person = PersonWindows(x.astype(np.float32), none, x[:1], none[:1])
    person.save(process.folder / "windows")
    split = read(small_models.floats(0, handmade.TIME, handmade.CHANNELS))
    values = len(quantized_values(split.net))
    graph = range_graph(split, [(-8.0, 8.0)] * values, 16).SerializeToString(deterministic=True)
    started(hub, process)
    digest = sha256(graph).hexdigest()
    hub.answered(hub.task("query.install", Payload(config={"graphs": {digest: graph}})))
    question = RangeTask(graph=digest, bins=16).model_dump_json()
    asked = Payload(config={"config": {"ranges": question}})
    counts = hub.answered(hub.task("evaluate.ranges", asked)).arrays["ranges"]["counts"]
    assert counts.shape == (values, 16)
    np.testing.assert_allclose(counts.sum(1), 1.0, rtol=1e-5)
    expected, _ = np.histogram(x, 16, (-8.0, 8.0))
    np.testing.assert_allclose(counts[0], expected / x.size, atol=1e-6)


def test_a_full_disk(hub, process):
    """The task fails with a clear line, nothing is half written, and with room all goes on."""
    state = process.folder / "state"
    state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(state)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        started(hub, process)
        graphs = install(hub)
        task = hub.task("train", handmade.training(graphs, 1))
        hub.until(lambda: "failed" in hub.kinds(task))
        assert hub.failure(task) == "disk: No space left on device"
        assert f"task {task[:8]}: failed: disk: No space left" in process.said()
        hub.answered(hub.task("query.graphs", Payload(config={"graphs": {"digests": []}})))
        hub.until(lambda: not list((state / "objects").iterdir()))
        bigger = ["mount", "-o", "remount,size=20m", str(state)]
        subprocess.run(bigger, check=True)
        hub.answered(hub.task("train", handmade.training(graphs, 1)))
        process.end()
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def test_told_to_stop(hub, process):
    """Within two seconds, in the middle of learning, saying that it is offline."""
    started(hub, process)
    graphs = install(hub)
    task = hub.task("train", handmade.training(graphs, 1, 20_000))
    hub.until(lambda: "accepted" in hub.kinds(task))
    time.sleep(1.0)
    hub.states.clear()
    assert process.end(signal.SIGTERM) < 2.0
    assert process.child.returncode == 0
    hub.until(lambda: [state.online for state in hub.states] == [False])


def test_the_broker_says_that_a_killed_daemon_is_offline(hub, process):
    started(hub, process)
    hub.states.clear()
    process.end()
    hub.until(lambda: [state.online for state in hub.states] == [False])


def test_two_daemons_on_one_folder(hub, process):
    started(hub, process)
    second = [sys.executable, "-m", "client.cli", "run", "--config", str(process.config)]
    second += ["--socket", str(process.folder / "other")]
    done = subprocess.run(second, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "another daemon runs on this folder" in done.stderr


def test_it_starts_on_a_full_disk_and_can_be_paused(hub, process):
    with small_disk(process.folder / "state", "2m") as state:
        started(hub, process)
        process.end(signal.SIGTERM)
        hub.states.clear()
        fill(state)
        started(hub, process)
        with pytest.raises(ApiError, match="the disk is full: paused only until the daemon ends"):
            ask(process.folder / "s", "pause")
        assert ask(process.folder / "s", "status")["paused"]
        hub.until(lambda: hub.states[-1].paused)
        with pytest.raises(ApiError, match="the disk is full: resumed only until the daemon ends"):
            ask(process.folder / "s", "resume")
        (state / "fill").unlink()
        ask(process.folder / "s", "pause")
        process.end()
        assert "Traceback" not in process.said()


def test_a_spoilt_store_costs_no_device(hub, process):
    started(hub, process)
    asked = Payload(config={"graphs": {"digests": []}})
    hub.answered(hub.task("query.graphs", asked))
    process.end(signal.SIGTERM)
    path = process.folder / "state" / "device.sqlite"
    path.write_bytes(truncated(path.read_bytes()))
    hub.states.clear()
    started(hub, process)
    assert "device.sqlite.spoilt is the old one" in ask(process.folder / "s", "status")["store"]
    hub.answered(hub.task("query.graphs", asked))
    process.end()
    assert "a fresh one is begun" in process.said()
    assert "Traceback" not in process.said()


def test_the_process_ends_where_its_runner_does(process):
    """One that stays connected and does nothing would be waited for."""
    script = (
        "import sys; from client import cli, runner\n"
        "runner.Runner._turn = lambda self: sys.exit(0)\n"
        "cli.main(sys.argv[1:])"
    )
    words = ["run", "--config", str(process.config), "--socket", str(process.folder / "s")]
    process.child = subprocess.Popen(
        [sys.executable, "-c", script, *words], stderr=subprocess.PIPE, text=True
    )
    _, said = process.child.communicate(timeout=20)
    assert process.child.returncode == 1
    assert said.splitlines()[-1].startswith("flwr-edge: no more tasks can be done")
