"""Orders about bundles, and a daemon that does them in this process: for tests."""

import json
import threading

import numpy as np

from client import bundle
from client.daemon import Daemon, state_message
from client.graphs import GraphStore
from client.predictions import Predictions
from client.store import Store
from client.windows import PersonWindows
from client.worker import Worker
from schemas import signing, wire
from schemas.memory_link import MemoryBroker, MemoryLink
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.payload_object import pack
from schemas.signing import new_key, public_hex
from tests.client import small_models
from tests.client.hub import Hub

DEVICE, KEY = "pi-1", new_key()
WINDOWS = small_models.windows(20)


def made(path, seed=0, *, key=KEY, model=None, base=None, reference=None, **card):
    """A bundle's bytes; ``model`` is ONNX."""
    said = small_models.card(bits=2, form="edge") if model is None else small_models.card()
    said = said.model_copy(update=card)
    data = small_models.lut(seed) if model is None else model
    bundle.write(path, said, data, key, base=base, reference=reference)
    return path.read_bytes()


class Local:
    """Does work in this process, and what a test tells it to break.

    Attributes
    ----------
    fault : callable(request), optional
        May raise, or return an answer of its own.
    """

    idle = 0.0

    def __init__(self, folder, objects, windows=WINDOWS) -> None:
        none = np.full(len(windows), -1, np.int64)
        person = PersonWindows(windows, none, windows[:0], none[:0])
        graphs = GraphStore(folder / "graphs")
        self.worker = Worker(objects, graphs, lambda: person, 7, key=public_hex(KEY))
        self.fault = lambda _: None
        self.actions: list[str] = []
        self._lock = threading.Lock()

    def ask(self, request, seconds, give_up, patience=-1.0):
        with self._lock:
            self.actions.append(request["action"])
            told = self.fault(request)
            return json.loads(json.dumps(told or self.worker(request)))

    def close(self) -> None: ...


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pi:
    """A daemon on a folder that outlives it, a broker in memory, and the server's side."""

    def __init__(self, folder) -> None:
        self.folder, self.clock = folder, Clock()
        self.broker = MemoryBroker()
        self.broker.start()
        self.hub = Hub(MemoryLink(self.broker, "server"), DEVICE)
        self.daemon = None

    def start(self, windows=WINDOWS, work=None, **settings):
        self.store = Store(self.folder / "device.sqlite", self.clock, "boot")
        self.objects = ObjectStore(self.folder / "objects", 1 << 26)
        self.work = work or Local(self.folder, self.objects, windows)
        link = MemoryLink(self.broker, DEVICE, will=state_message(DEVICE, online=False))
        settings = {"retry": 0.05, **settings}
        self.daemon = Daemon(
            DEVICE, link, self.store, self.objects, self.work, lambda: (True, ""), **settings
        )
        self.predictions = Predictions(
            self.store, self.work, self.daemon.bundles, lambda: self.daemon.runner.stopping
        )
        count = len(self.hub.states)
        self.daemon.start()
        self.hub.until(lambda: any(state.online for state in self.hub.states[count:]))
        return self

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.stop()
            self.store.close()
            self.daemon = None

    def close(self) -> None:
        self.stop()
        self.hub.link.close()
        self.broker.stop()

    def order(self, *files, action="bundle", key=KEY, ttl=600.0, **said):
        """Order a bundle (and its base) to be installed; the task's id."""
        refs = tuple(self.hub.put(file) for file in files)
        said = {"seconds": 0.0, **said}
        said.setdefault("bundle", refs[0].sha256)
        body, _ = pack(Payload(config={"bundle": said}))
        objects = refs if action == "bundle" else ()
        payload = self.hub.put(body)
        task = wire.Task(run="rollout/1", action=action, payload=payload, objects=objects)
        envelope = signing.sign_task(key, DEVICE, wire.envelope(task, ttl=ttl))
        self.hub.tell(envelope)
        return envelope.id

    def done(self, task):
        return dict(self.hub.answered(task).config.get("bundle", {}))

    def failed(self, task):
        self.hub.until(lambda: "failed" in self.hub.kinds(task))
        return self.hub.failure(task)

    @property
    def current(self):
        serving = self.daemon.bundles.installed.serving()
        return serving and serving.sha256

    @property
    def files(self):
        return {path.stem for path in (self.folder / "bundles").glob("*.flwb")}

    def predict(self, window=None):
        return self.predictions.predict({"window": window})
