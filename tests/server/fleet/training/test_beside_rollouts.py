"""A training and roll-outs at once: real daemons, a real broker, a courier for either."""

import signal

import numpy as np
import pytest
from sqlalchemy import select

from client.windows import PersonWindows
from schemas.signing import public_hex
from server.fleet.installed import in_use
from server.fleet.registry import Rollout, Update
from server.fleet.rollouts import GroupSpec, Terms, create
from server.fleet.rollouts.service import Service
from server.fleet.signer import signing_key
from server.transport.tables import DropRow
from tests.client import orders, small_models
from tests.mosquitto import program
from tests.server.fleet import folders
from tests.server.fleet.broker.conftest import wait
from tests.server.fleet.training.test_train import FILE, piloted

pytestmark = pytest.mark.skipif(program() is None, reason="mosquitto is not installed")
SHAPE = f"{{ time = {small_models.TIME}, channels = {small_models.CHANNELS}, "


@pytest.fixture
def pilot(made, migrated, tmp_path):
    """Two daemons whose windows fit what is rolled out and what is trained."""
    with piloted(made, migrated, tmp_path) as pilot:
        place, file = pilot.place, FILE.replace("{ time = 20, channels = 6, ", SHAPE)
        pilot.file.write_text(file.replace(", magnitudes = [[0, 1, 2]]", ""))
        key = public_hex(signing_key(place.folder, place.config))
        labels = np.arange(len(orders.WINDOWS), dtype=np.int64) % 2
        own = PersonWindows(orders.WINDOWS[:12], labels[:12], orders.WINDOWS[12:], labels[12:])
        for name in ("a", "b"):
            pilot.device(name, own=own, more=f'fleet_key = "{key}"\n')
        yield pilot


@pytest.fixture
def service(pilot):
    place = pilot.place
    key = signing_key(place.folder, place.config)
    service = Service(place.folder, place.config, key, every=0.1)
    service.start()
    yield service
    service.stop()


@pytest.mark.usefixtures("service")
def test_roll_outs_in_the_middle_of_a_training(pilot):
    place, registry = pilot.place, pilot.place.keeper.registry
    key = signing_key(place.folder, place.config)
    process = pilot.start("--set", "rounds=1000", "--set", "evaluate_every=10")
    assert wait(lambda: len(pilot.lines()) >= 2, 60), process.communicate()

    def state(rollout):
        with registry.read() as db:
            return db.get(Rollout, rollout).state

    before = len(pilot.lines())
    for seed in (0, 1):
        name = f"walk-{seed}"
        data = orders.made(pilot.root / f"{name}.flwb", seed, key=key, name=name)
        sha = folders.published(place.folder, data, name, database=pilot.root / "registry.sqlite")
        terms = Terms(success=1.0, error=0.0, predictions=1, seconds=1.0)
        groups = [GroupSpec.parse("devices=a"), GroupSpec.parse("rest")]
        rollout = create(registry, "operator:test", name, groups, terms)[0]
        assert wait(lambda rollout=rollout: state(rollout) == "finished", 90), state(rollout)
        with registry.read() as db:
            assert {in_use(db, each).bundle.id for each in ("a", "b")} == {sha}
    after = len(pilot.lines())
    assert wait(lambda: len(pilot.lines()) > after, 30)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said

    assert after > before
    assert {line["answered"] for line in pilot.lines()} == {2}
    with registry.read() as db:
        assert [row.reason for row in db.scalars(select(DropRow))] == []
        assert {row.verdict for row in db.scalars(select(Update))} == {"accepted"}
