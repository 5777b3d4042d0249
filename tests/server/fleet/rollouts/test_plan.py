import math
import time

import pytest
from pydantic import ValidationError
from sqlalchemy import insert

from schemas.base import ConfigError
from server.fleet.errors import NotFoundError, Refusal
from server.fleet.registry import Bundle, Device
from server.fleet.rollouts import GroupSpec, Terms, create, status, summaries
from tests.server.fleet.rollouts.conftest import BOTH, ONE, TWO


def planned(world, *groups, bundle="walk"):
    specs = [GroupSpec.parse(text) for text in groups]
    terms = Terms(success=1.0, error=0.0)
    _, members = create(world.registry, "operator:test", bundle, specs, terms, dry_run=True)
    return members


@pytest.mark.parametrize(
    "text", ["", "beta", "tag=", "0%", "101%", "0", "-1", "1.5", "devices=", "10 %", "file=/none/x"]
)
def test_what_is_no_group_is_refused_by_name(text):
    with pytest.raises(ConfigError, match="--group"):
        GroupSpec.parse(text)


def test_devices_belong_to_the_first_group_that_takes_them(fleet, tmp_path):
    world = fleet()
    listed = tmp_path / "some"
    listed.write_text("d\ne\n")
    members = planned(world, "tag=beta", f"file={listed}", "devices=f", "20%", "1", "rest")
    assert [set(names) for names in members.values()][:3] == [set("abc"), set("de"), {"f"}]
    assert [len(names) for names in members.values()] == [3, 2, 1, 2, 1, 1]
    assert sorted(name for names in members.values() for name in names) == list("abcdefghij")


def test_a_share_is_the_same_each_time_and_another_for_another_bundle(fleet):
    world = fleet()
    world.bundle(TWO, name="run")
    assert planned(world, "40%") == planned(world, "40%")
    assert planned(world, "40%") != planned(world, "40%", bundle="run")


def test_what_cannot_be_is_refused(fleet):
    world = fleet()
    with pytest.raises(NotFoundError, match="no bundle stand; see flwr-fleet bundle list"):
        world.create("rest", bundle="stand")
    with pytest.raises(NotFoundError, match="no accepted device z"):
        world.create("devices=a,z")
    with pytest.raises(Refusal, match="no accepted device is left"):
        world.create("100%", "rest")
    with pytest.raises(Refusal, match="it is there twice"):
        world.create("10%", "10%")
    rollout = world.create("devices=a,b")
    with pytest.raises(Refusal, match=f"device b: in roll-out {rollout}, which is not over"):
        world.create("devices=b,c")
    with pytest.raises(Refusal, match="device a and 1 more"):
        world.create("rest")
    world.create("devices=c,d")


def test_bundles_by_hash_name_and_version(fleet):
    world = fleet()
    world.clock.now += 1
    world.bundle(TWO, version="2")
    for text, sha in (("walk", TWO), ("walk@1", ONE), (ONE[:8], ONE), (TWO, TWO)):
        with world.registry.read() as db:
            number = world.create("devices=a", bundle=text)
            assert status(db, number).bundle.id == sha
        from server.fleet.rollouts import abort

        abort(world.registry, "operator:test", number)


def test_a_personal_bundle_is_for_its_person_alone(fleet):
    world = fleet()
    world.bundle(TWO, name="ann", device="a")
    assert planned(world, "rest", bundle="ann") == {"rest": ["a"]}
    with pytest.raises(NotFoundError, match="the bundle is a's own"):
        planned(world, "devices=b", bundle="ann")


def test_the_order_is_of_the_bundle_and_the_terms(fleet):
    world = fleet()
    number = world.create("rest", downgrade=True, latency_us=5.0, predictions=7, seconds=8.0)
    with world.registry.read() as db:
        order = status(db, number).rollout.plan["order"]
        assert order["published"] == db.get(Bundle, ONE).published
    assert (order["bundle"], order["downgrade"], order["other_backbone"]) == (ONE, True, False)
    assert (order["latency_us"], order["predictions"], order["seconds"]) == (5.0, 7, 8.0)


@pytest.mark.parametrize(
    "terms", [{"success": math.nan}, {"error": -1}, {"seconds": math.inf}, {"predictions": -1}]
)
def test_terms_out_of_their_range_make_no_roll_out(fleet, terms):
    world = fleet()
    with pytest.raises(ValidationError):
        world.create("rest", **terms)
    with world.registry.read() as db:
        assert summaries(db) == []


@BOTH
def test_ten_thousand_devices_in_under_a_second(world):
    world.bundle()
    names = [f"pi-{number:05}" for number in range(10_000)]
    with world.registry.write("test") as tx:
        rows = [{"id": name, "state": "accepted", "created": 0, "changed": 0} for name in names]
        tx.db.execute(insert(Device), rows)
    took = []
    number = world.create("1%", "10%", "rest")
    for look in (lambda db: status(db, number), summaries):
        began = time.process_time()
        with world.registry.read() as db:
            look(db)
        took.append(time.process_time() - began)
    began = time.process_time()
    world.engine.tick()
    took.append(time.process_time() - began)
    assert max(took) < 1.0
    assert world.status(number)["groups"][2]["devices"] == 8_900
