"""A fleet in memory, its registry on either database, and devices that do as a test tells them."""

import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from schemas.memory_link import MemoryBroker, MemoryLink
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.rollout import BACK, BundleOrder
from schemas.wire import Failed, Task
from server.fleet.registry import Bundle, Device, Registry, Rollout, RolloutDevice, Tag
from server.fleet.rollouts import Engine, GroupSpec, Terms, create, status
from server.fleet.rollouts.reports import Reporter
from server.transport.ledger import Ledger
from tests.server.transport.fake_device import FakeDevice, will_of

CONTENTS = (b"one" * 100_000, b"two" * 1000, b"three" * 100)
FILES = {sha256(data).hexdigest(): data for data in CONTENTS}
ONE, TWO, THREE = FILES
BOTH = pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)


class Pi(FakeDevice):
    """Installs what it is told to; says why not where ``fails`` says so.

    Attributes
    ----------
    fails : str
        The reason that it gives; none: it succeeds.
    holds : bool
        Whether it stays on probation.
    has : list of str
        Bundles, the newest last.
    adds : dict
        What its report says besides.
    """

    fails, holds = "", False

    def __init__(self, *arguments: Any) -> None:
        self.has: list[str] = []
        self.adds: dict[str, Any] = {}
        super().__init__(*arguments)

    def _go_on(self) -> None:
        if self.holds:
            return
        super()._go_on()

    def result(self, task: str, payload: Payload) -> Any:
        if self.fails:
            return self.say(Failed(reason=self.fails), re=task)
        return super().result(task, payload)

    def did(self, task: Task, asked: Payload) -> Payload:
        order = BundleOrder.model_validate(asked.config["bundle"])
        if task.action == BACK:
            if self.has[-1:] == [order.bundle]:
                self.has.pop()
            return Payload()
        if not self.fails:
            self.has.append(order.bundle)
        return Payload(config={"bundle": {"sha256": order.bundle, "latency_us": 12.5, **self.adds}})


class World:
    """A broker, devices, and a server that can be killed and made anew."""

    def __init__(self, folder: Path, registry: Registry, database: Path | str, clock: Any) -> None:
        self.folder, self.registry, self.database, self.clock = folder, registry, database, clock
        self.broker = MemoryBroker(clock=clock)
        self.devices: dict[str, Pi] = {}
        self.lines: list[str] = []
        self.lives = 0
        self.start()

    def start(self) -> None:
        """A server's life."""
        self.lives += 1
        self.ledger = Ledger(self.database)
        self.objects = ObjectStore(self.folder / "objects", 1 << 26)
        self.link = MemoryLink(self.broker, "server")
        self.courier = Reporter(
            self.registry,
            self.link,
            self.objects,
            self.ledger,
            key=None,
            tell=self.lines.append,
            max_upload=1 << 20,
            clock=self.clock,
        )
        self.engine = Engine(
            self.registry, self.ledger, self.courier, self.objects, FILES.__getitem__
        )
        self.courier.start()
        self.broker.pump()

    def kill(self) -> None:
        """Nothing is told to anybody."""
        self.link.close()
        self.ledger.close()
        self.broker.pump()

    def close(self) -> None:
        self.kill()
        for device in self.devices.values():
            device.link.close()

    def enrol(self, *names: str, tag: str = "") -> None:
        with self.registry.write("test") as tx:
            for name in names:
                tx.db.add(Device(id=name, state="accepted", created=tx.now, changed=tx.now))
                tx.db.flush()
                if tag:
                    tx.db.add(Tag(device=name, tag=tag))
        for name in names:
            self.ledger.add_device(name)

    def on(self, *names: str, **told: Any) -> None:
        """Switch devices on, for the first time or again."""
        for name in names:
            link = MemoryLink(self.broker, name, will=will_of(name))
            device = Pi(link, name, self.folder / "devices", lambda *_: Payload())
            device.answer = device.did
            for key, value in told.items():
                setattr(device, key, value)
            self.devices[name] = device
        self.broker.pump()

    def off(self, *names: str) -> None:
        """Switch devices off."""
        for name in names:
            self.devices[name].state(online=False)
            self.broker.pump()
            self.devices[name].link.close()

    def bundle(self, sha: str = ONE, name: str = "walk", version: str = "1", **more: Any) -> str:
        with self.registry.write("test") as tx:
            fields = {"bytes": len(FILES[sha]), "published": tx.now, "manifest": {}, **more}
            tx.db.add(Bundle(id=sha, name=name, version=version, **fields))
        return sha

    def create(
        self,
        *groups: str,
        bundle: str = "walk",
        **terms: Any,
    ) -> str:
        specs = [GroupSpec.parse(text) for text in groups]
        asked = Terms(**{"success": 1.0, "error": 0.0, **terms})
        number, _ = create(self.registry, "operator:test", bundle, specs, asked)
        return number

    def go(self, times: int = 6, seconds: float = 1.0) -> None:
        """Let the server look, so many times."""
        for _ in range(times):
            self.clock.now += seconds
            self.courier.tick()
            self.engine.tick()
            self.broker.pump()

    def state(self, rollout: str) -> str:
        with self.registry.read() as db:
            row = db.get(Rollout, rollout)
            assert row is not None
            return row.state

    def reason(self, rollout: str) -> str:
        with self.registry.read() as db:
            row = db.get(Rollout, rollout)
            assert row is not None
            return row.reason or ""

    def states(self, rollout: str) -> dict[str, str]:
        with self.registry.read() as db:
            rows = db.query(RolloutDevice).filter_by(rollout=rollout)
            return {row.device: row.state for row in rows}

    def of(self, rollout: str, device: str) -> RolloutDevice:
        with self.registry.read() as db:
            row = db.get(RolloutDevice, (rollout, device))
            assert row is not None
            return row

    def status(self, rollout: str) -> dict[str, Any]:
        with self.registry.read() as db:
            return status(db, rollout).as_json()


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """SQLite; and PostgreSQL for the tests that are marked with ``BOTH``."""
    if getattr(request, "param", "sqlite") == "postgres":
        url: str = request.getfixturevalue("postgres_server").new("migrated")
        return url
    path = tmp_path / "registry.sqlite"
    shutil.copy(request.getfixturevalue("migrated"), path)
    return path


@pytest.fixture
def world(tmp_path: Path, registry: Registry, database: Path | str, clock: Any) -> Iterator[World]:
    world = World(tmp_path, registry, database, clock)
    yield world
    world.close()


@pytest.fixture
def fleet(world: World) -> Callable[..., World]:
    """Devices a to j, of which a, b and c are ``beta``."""

    def make(**told: Any) -> World:
        world.enrol(*"abc", tag="beta")
        world.enrol(*"defghij")
        world.on(*"abcdefghij", **told)
        world.bundle()
        return world

    return make
