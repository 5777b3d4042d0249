"""Real daemons, a real broker, a server that is killed: bundles are rolled out, and come back."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client.local_api import ApiError, ask
from client.windows import PersonWindows
from schemas.signing import public_hex
from server.fleet.installed import in_use
from server.fleet.registry import Registry, Rollout, RolloutDevice
from server.fleet.rollouts import GroupSpec, Terms, create
from tests import mosquitto
from tests.client import orders
from tests.client.test_installer import logarithm
from tests.server.fleet import folders

NAMES = "abc"
pytestmark = pytest.mark.skipif(mosquitto.program() is None, reason="Mosquitto is not installed")


class Machine:
    """A daemon's process and its disk."""

    def __init__(self, folder, name, port) -> None:
        self.folder, self.name, self.socket = folder, name, folder / "s"
        none = np.full(len(orders.WINDOWS), -1, np.int64)
        own = PersonWindows(orders.WINDOWS, none, orders.WINDOWS[:0], none[:0])
        folder.mkdir()
        own.save(folder / "windows")
        (folder / "pi.toml").write_text(
            f'device = "{name}"\nstate = "state"\nfleet_key = "{public_hex(orders.KEY)}"\n'
            f'[broker]\nhost = "127.0.0.1"\nport = {port}\n[windows]\nfolder = "windows"\n'
        )
        self.child = None

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "client.cli", "run", "--socket", str(self.socket)]
        command += ["--config", str(self.folder / "pi.toml")]
        with (self.folder / "log").open("ab") as log:
            self.child = subprocess.Popen(command, stderr=log)

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()

    @property
    def bundle(self):
        """What it predicts with, and on probation or not; nothing while it does not answer."""
        with contextlib.suppress(ApiError):
            return ask(self.socket, "status")["bundle"]
        return {"current": None, "previous": None, "probation": None}


class Site:
    """All of them."""

    def __init__(self, folder, migrated, port) -> None:
        self.folder, self.port = folder, port
        self.fleet = folders.made(folder / "fleet", migrated, NAMES)
        self.registry = Registry(self.fleet.root / "registry.sqlite")
        self.key = folder / "key.pem"
        pem = orders.KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.key.write_bytes(pem)
        self.machines = {name: Machine(folder / name, name, port) for name in NAMES}
        self.server = None

    def serve(self) -> None:
        module = Path(__file__).with_name("server_process.py")
        command = [sys.executable, str(module), str(self.fleet.root), str(self.port), str(self.key)]
        with (self.folder / "server.log").open("ab") as log:
            root = Path(__file__).parents[4]
            self.server = subprocess.Popen(command, stderr=log, cwd=root)

    def kill_server(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.server = None

    def publish(self, name, seed=0, **more):
        return folders.published(
            self.fleet, orders.made(self.folder / f"{name}.flwb", seed, name=name, **more), name
        )

    def roll_out(self, bundle, *groups, predictions=100, seconds=0.0, **shares):
        specs = [GroupSpec.parse(text) for text in groups]
        probation = {"predictions": predictions, "seconds": seconds}
        terms = Terms(**{"success": 1.0, "error": 0.0, **probation, **shares})
        return create(self.registry, "operator:test", bundle, specs, terms)[0]

    def states(self, rollout):
        with self.registry.read() as db:
            rows = db.query(RolloutDevice).filter_by(rollout=rollout)
            return {row.device: row.state for row in rows}

    def row(self, rollout):
        with self.registry.read() as db:
            return db.get(Rollout, rollout)

    def until(self, condition, seconds=90.0):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)
        return found

    def said(self) -> str:
        logs = [self.folder / "server.log", *(self.folder / name / "log" for name in NAMES)]
        return "\n".join(f"{log}: {log.read_text()[-2000:]}" for log in logs if log.exists())


@pytest.fixture(scope="module")
def site(tmp_path_factory, migrated):
    folder = tmp_path_factory.mktemp("site")
    with mosquitto.running(folder / "broker") as broker:
        site = Site(folder, migrated, broker.port)
        try:
            for machine in site.machines.values():
                machine.start()
            site.serve()
            yield site
        finally:
            site.kill_server()
            for machine in site.machines.values():
                machine.kill()
            site.registry.close()


@pytest.fixture
def good(site):
    """What each machine predicts with; tests come in any order, and the first finds nothing."""
    found = {name: machine.bundle["current"] for name, machine in site.machines.items()}
    if None in found.values():
        first = site.publish("first", seed=4)
        rollout = site.roll_out("first", "rest")
        site.until(lambda: site.row(rollout).state == "finished")
        found = dict.fromkeys(NAMES, first)
    return found


def test_all_of_it_with_everybody_killed_on_the_way(site):
    walk = site.publish("walk")
    rollout = site.roll_out("walk", "devices=a", "rest", seconds=3.0)
    first = site.machines["a"]
    site.until(lambda: first.bundle["probation"])
    site.kill_server()
    first.kill()
    first.start()
    site.until(lambda: first.bundle["current"] == walk and not first.bundle["probation"])
    assert site.states(rollout)["b"] == "waiting"  # nobody tells
    site.serve()
    site.until(lambda: site.machines["b"].bundle["probation"])
    site.machines["b"].kill()
    site.machines["b"].start()
    site.until(lambda: site.row(rollout).state == "finished")
    assert set(site.states(rollout).values()) == {"succeeded"}
    for machine in site.machines.values():
        assert machine.bundle["current"] == walk
        found = ask(machine.socket, "predict", window=orders.WINDOWS[0].tolist(), timeout=60)
        assert found["name"] in {"rest", "walk", "run", "sit"}


def test_a_bad_bundle_stops_at_the_first_group_and_the_good_one_predicts_on(site, good):
    reference = np.abs(orders.WINDOWS[:2])
    site.publish("bad", model=logarithm(), reference=reference, bits=32)
    rollout = site.roll_out("bad", "devices=a", "rest")
    site.until(lambda: site.row(rollout).state == "failed")
    assert "1 of 1 devices failed" in site.row(rollout).reason
    with site.registry.read() as db:
        assert "NaN or infinity" in db.get(RolloutDevice, (rollout, "a")).reason
    assert site.states(rollout) == {"a": "failed", "b": "aborted", "c": "aborted"}
    assert {name: m.bundle["current"] for name, m in site.machines.items()} == good


def test_a_model_that_crashes_goes_back_and_the_daemon_stays(site, good):
    """The process that learns dies in the middle of a prediction, again and again."""
    first = site.machines["a"]
    daemon = first.child.pid
    other = site.publish("other", seed=5)
    rollout = site.roll_out("other", "devices=a", predictions=1000, seconds=600.0)
    site.until(lambda: first.bundle["current"] == other)
    end = time.monotonic() + 60
    while first.bundle["current"] == other and time.monotonic() < end:
        asker = subprocess.Popen([sys.executable, "-c", _ASK, str(first.socket)])
        while asker.poll() is None:
            for pid in Path(f"/proc/{daemon}").glob("task/*/children"):
                for child in pid.read_text().split():
                    subprocess.run(["kill", "-SEGV", child], check=False, capture_output=True)
        asker.wait()
    assert first.bundle["current"] == good["a"]
    assert first.child.poll() is None
    site.until(lambda: site.row(rollout).state == "failed")
    with site.registry.read() as db:
        assert "ended by signal 11" in db.get(RolloutDevice, (rollout, "a")).reason


def test_a_bundle_that_is_spoilt_after_it_had_succeeded_is_told_of(site, good):
    """Nobody asks for it: the daemon finds it, and says so until the server has heard."""
    first, before = site.machines["a"], good["a"]
    late = site.publish("late", seed=6)
    rollout = site.roll_out("late", "devices=a")
    site.until(lambda: site.row(rollout).state == "finished")
    assert site.states(rollout) == {"a": "succeeded"}
    (path,) = first.folder.rglob(f"{late}.flwb")
    path.write_bytes(b"")
    ask(first.socket, "predict", window=orders.WINDOWS[0].tolist(), timeout=60)
    assert first.bundle["fault"].endswith(f"{before[:12]} predicts now")
    site.kill_server()
    ask(first.socket, "pause")
    ask(first.socket, "resume")  # either has it look at once
    time.sleep(1)
    first.kill()
    site.serve()
    first.start()  # all that is open is said with a connection
    site.until(lambda: site.states(rollout) == {"a": "failed"})
    with site.registry.read() as db:
        assert db.get(RolloutDevice, (rollout, "a")).reason.startswith("put aside after it had")
        found = in_use(db, "a")
    assert (found.bundle.id, found.aside.id) == (before, late)


_ASK = f"""
import sys
from pathlib import Path
from client.local_api import ask, ApiError
try:
    ask(Path(sys.argv[1]), "predict", window={json.dumps(orders.WINDOWS[0].tolist())}, timeout=60)
except ApiError:
    pass
"""
