"""The doctor finds each planted fault by its name, with advice, and none in a sound fleet."""

import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import ssl
import threading
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import update

from schemas.base import ConfigError
from schemas.fleet import BrokerPlace, FleetConfig, FleetFolder, Lifetimes, Server
from schemas.objects import ObjectStore
from schemas.signing import new_key
from server.cli import main
from server.database import open_engine
from server.fleet import secret
from server.fleet.alone import Alone
from server.fleet.authority import Authority, encrypted_key
from server.fleet.broker.control import make_control
from server.fleet.broker.lists import write_lists
from server.fleet.broker.settings import configuration
from server.fleet.create import create
from server.fleet.doctor import examine
from server.fleet.keeper import Keeper
from server.fleet.registry import Audit, Bundle, Certificate, Device, Key, Registry, TaskRow
from tests.mosquitto import free_port
from tests.server.fleet.site import Site

DAY = 86_400.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fleet as ``init`` makes it, on free ports; to copy."""
    root = tmp_path_factory.mktemp("whole") / "fleet"
    loopback = {"listen": "127.0.0.1"}
    config = FleetConfig(
        server=Server(port=free_port(), **loopback),
        broker=BrokerPlace(port=free_port(), control=free_port(), **loopback),
        lifetimes=Lifetimes(crl_hours=24),
    )
    create(FleetFolder(root), config, lambda _: None)
    return root


@pytest.fixture
def folder(whole, tmp_path):
    folder = FleetFolder(tmp_path / "fleet")
    shutil.copytree(whole, folder.root)
    make_control(folder)
    (folder.broker / "mosquitto.conf").write_text(configuration(folder, folder.config()))
    write_lists(folder, folder.config())
    return folder


def of(folder, *states):
    return {one.name: one for one in examine(folder, folder.config()) if one.state in states}


def authority(folder, at=0.0):
    """The fleet's CA, as it was so many seconds from now."""
    config, when = folder.config(), time.time() + at
    return Authority(folder, config.lifetimes, secret.load(folder, config), lambda: when)


def issue(folder, by, where):
    """Give a service another certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued = by.issue_service("x", key.public_key(), ["localhost"], client=True)
    (where / "certificate.pem").write_text(issued.pem)
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (where / "key.pem").write_bytes(plain)


def registry(folder):
    return Registry(folder.database(folder.config()))


def other_fleet(folder):
    """The CA of another fleet, of the same name."""
    there = FleetFolder(folder.root / "elsewhere")
    there.root.mkdir()
    return Authority.create(there, Lifetimes(), b"secret", "fleet")


def ca_gone(folder):
    shutil.rmtree(folder.ca)


def ca_ends_soon(folder):
    """Made 3,600 of its 3,650 days ago."""
    shutil.rmtree(folder.ca)
    config, then = folder.config(), time.time() - 3600 * DAY
    key = secret.load(folder, config)
    Authority.create(folder, config.lifetimes, key, config.name, lambda: then)


def ca_key_of_another_secret(folder):
    encrypted_key(folder.ca / "1.key", ec.generate_private_key(ec.SECP256R1()), b"another")


def ca_bundle_of_others(folder):
    folder.bundle_of_cas.write_text(other_fleet(folder).chain)


def server_expired(folder):
    issue(folder, authority(folder, -100 * DAY), folder.server)


def server_expires_soon(folder):
    issue(folder, authority(folder, -80 * DAY), folder.server)


def server_of_another_ca(folder):
    issue(folder, other_fleet(folder), folder.server)


def server_for_another_host(folder):
    text = folder.file.read_text()
    folder.file.write_text(text.replace('host = "localhost"', 'host = "fleet.example"'))


def broker_gone(folder):
    (folder.broker / "certificate.pem").unlink()


def broker_key_of_another(folder):
    shutil.copy(folder.server / "key.pem", folder.broker / "key.pem")


def crl_gone(folder):
    folder.crl.unlink()


def crl_expired(folder):
    folder.crl.write_text(authority(folder, -2 * DAY).crl([]))


def crl_ends_soon(folder):
    folder.crl.write_text(authority(folder, -20 * 3600).crl([]))


def crl_of_another_ca(folder):
    folder.crl.write_text(other_fleet(folder).crl([]))


def key_for_all(folder):
    (folder.server / "key.pem").chmod(0o644)


def database_gone(folder):
    (folder.root / "registry.sqlite").unlink()


def database_old(folder, revision="0001"):
    with sqlite3.connect(folder.root / "registry.sqlite") as db:
        db.execute("UPDATE alembic_version SET version_num = ?", [revision])
    db.close()


def database_newer(folder):
    database_old(folder, "9999")


def database_broken(folder):
    path = folder.root / "registry.sqlite"
    data = bytearray(path.read_bytes())
    data[4096 : len(data) // 2] = bytes(len(data) // 2 - 4096)
    path.write_bytes(data)


def audit_changed(folder):
    with registry(folder) as opened, opened.write("x") as tx:
        tx.db.execute(update(Audit).where(Audit.number == 1).values(subject="nobody"))


def audit_cut_off(folder):
    with sqlite3.connect(folder.root / "registry.sqlite") as db:
        db.execute("DELETE FROM audit")
    db.close()


def anchor_gone(folder):
    folder.anchor.unlink()


def anchor_scribbled(folder):
    folder.anchor.write_text("no heads\n")


def signing_key_gone(folder):
    folder.signing_key.unlink()


def signing_key_of_another(folder):
    encrypted_key(folder.signing_key, new_key(), secret.load(folder, folder.config()))


def bundle_cut_off(folder):
    (folder.bundles / f"{'a' * 64}.flwb").write_bytes(b"short")
    with registry(folder) as opened, opened.write("x") as tx:
        tx.db.add(Bundle(id="a" * 64, name="b", version="1", bytes=9, published=tx.now))


def bundle_spoilt(folder):
    bundle_cut_off(folder)
    (folder.bundles / f"{'a' * 64}.flwb").write_bytes(b"as long..")


def open_task(folder, run, payload="b" * 64):
    row = {"run": run, "device": "d", "node": 1, "action": "a", "session": "s", "id": run}
    with registry(folder) as opened, opened.write("x") as tx:
        times = {"created": tx.now, "expires": tx.now + 9}
        tx.db.add(TaskRow(payload_sha=payload, payload_bytes=3, **times, **row))


def object_gone(folder):
    open_task(folder, "r")


def clock_was_ahead(folder):
    future = time.time() + DAY
    opened = Registry(folder.database(folder.config()), clock=lambda: future)
    with opened, opened.write("x") as tx:
        tx.audit("x", "y")


def certificate_not_yet_valid(folder):
    issue(folder, authority(folder, 2 * DAY), folder.server)


def configuration_by_hand(folder):
    with (folder.broker / "mosquitto.conf").open("a") as file:
        file.write("allow_anonymous true\n")


def device_expired(folder):
    with registry(folder) as opened, opened.write("x") as tx:
        for name, days in (("over", -1), ("good", 1)):
            tx.db.add(Device(id=name, state="accepted", created=0, changed=0))
            tx.db.add(Key(id=name, device=name, state="accepted", kind="k", created=0, changed=0))
            tx.db.flush()
            ends = {"not_before": 0, "not_after": tx.now + days * DAY}
            told = {"serial": name, "use": "device", "subject": name, "issuer": "", "pem": ""}
            tx.db.add(Certificate(device=name, key=name, **told, **ends))


def configuration_gone(folder):
    (folder.broker / "mosquitto.conf").unlink()


def control_key_gone(folder):
    (folder.server / "control.key").unlink()


def list_by_hand(folder):
    with (folder.broker / "access.acl").open("a") as file:
        file.write("user mallory\ntopic readwrite #\n")


FAULTS = [
    (ca_gone, "ca"),
    (ca_key_of_another_secret, "ca-key"),
    (ca_bundle_of_others, "ca-bundle"),
    (server_expired, "server-certificate"),
    (server_of_another_ca, "server-certificate"),
    (server_for_another_host, "server-certificate"),
    (broker_gone, "broker-certificate"),
    (broker_key_of_another, "broker-key"),
    (crl_gone, "crl"),
    (crl_expired, "crl"),
    (crl_of_another_ca, "crl"),
    (key_for_all, "key-mode"),
    (database_gone, "database"),
    (database_old, "database"),
    (database_newer, "database"),
    (database_broken, "database"),
    (audit_changed, "audit-log"),
    (audit_cut_off, "audit-log"),
    (anchor_gone, "audit-log"),
    (anchor_scribbled, "audit-log"),
    (signing_key_gone, "signing-key"),
    (signing_key_of_another, "signing-key"),
    (bundle_cut_off, "bundles"),
    (bundle_spoilt, "bundles"),
    (object_gone, "objects"),
    (clock_was_ahead, "clock"),
    (certificate_not_yet_valid, "clock"),
    (configuration_by_hand, "broker-configuration"),
    (control_key_gone, "broker-configuration"),
    (list_by_hand, "broker-lists"),
]
WARNINGS = [
    (ca_ends_soon, "ca"),
    (server_expires_soon, "server-certificate"),
    (crl_ends_soon, "crl"),
    (configuration_gone, "broker-configuration"),
    (device_expired, "device-certificates"),
]


def test_a_sound_fleet_has_no_fault(folder):
    found = examine(folder, folder.config())
    assert [one for one in found if one.state == "fault"] == []
    assert {one.name for one in found if one.state == "warning"} <= {
        "enrolment-port",  # free: nothing serves in this test
        "broker",
        "disk",
        "reach",  # localhost, as a demonstration's
    }
    assert {name for _, name in FAULTS + WARNINGS} <= {one.name for one in found}
    assert all(bool(one.advice) == (one.state != "ok") for one in found)


@pytest.mark.parametrize(("plant", "name"), FAULTS, ids=[plant.__name__ for plant, _ in FAULTS])
def test_a_planted_fault_is_found(folder, plant, name):
    plant(folder)
    found = of(folder, "fault")
    assert name in found
    assert found[name].advice
    assert "could not be checked" not in found[name].seen


@pytest.mark.parametrize(("plant", "name"), WARNINGS, ids=[plant.__name__ for plant, _ in WARNINGS])
def test_what_will_be_a_fault_is_a_warning(folder, plant, name):
    plant(folder)
    assert of(folder, "warning")[name].advice


@pytest.mark.parametrize(("run", "others"), [("walk-1", "rollout/1"), ("rollout/1", "walk-1")])
def test_objects_are_looked_for_where_their_tasks_keep_them(folder, run, others):
    place = folder.objects if run.startswith("rollout/") else folder.objects / "federation"
    payload = ObjectStore(place, 1 << 20).put(b"abc").sha256
    open_task(folder, run, payload)
    assert of(folder, "ok")["objects"].seen == "1, all there"
    open_task(folder, others, payload)
    assert "1 of 2 missing" in of(folder, "fault")["objects"].seen


def test_devices_whose_certificate_has_expired_are_named(folder):
    device_expired(folder)
    found = of(folder, "warning")["device-certificates"]
    assert found.seen == "expired, of 1 accepted devices: over"
    assert "device rotate" in found.advice


def test_keys_whose_passphrase_nobody_gives_are_not_called_faulty(folder, monkeypatch):
    monkeypatch.delenv(secret.VARIABLE, raising=False)
    text = folder.file.read_text()
    folder.file.write_text(text.replace('kind = "file"', 'kind = "passphrase"'))
    assert {"ca-key", "signing-key"} <= set(of(folder, "warning"))
    assert of(folder, "fault") == {}


def test_a_fleet_that_others_reach_has_no_word_on_it(folder):
    (one,) = [one for one in examine(folder, folder.config()) if one.name == "reach"]
    assert (one.state, "server.host and broker.host" in one.seen) == ("warning", True)
    text = folder.file.read_text()
    folder.file.write_text(text.replace('host = "localhost"', 'host = "fleet.example"'))
    assert of(folder, "ok")["reach"].seen == "devices find fleet.example"


def database_at(folder, url):
    text = folder.file.read_text()
    folder.file.write_text(text.replace('"registry.sqlite"', f'"{url}"'))


def test_a_database_that_no_migration_helps_is_not_to_be_migrated(folder):
    database_old(folder)
    assert "which migrate it" in of(folder, "fault")["database"].advice
    database_newer(folder)
    found = of(folder, "fault")["database"]
    assert found.seen == "of a newer release"
    assert found.advice.startswith("install the flwr-edge that last used it")
    with pytest.raises(ConfigError, match="of a newer flwr-edge; use that release with it"):
        registry(folder)


def test_a_postgresql_that_answers_is_well(folder, postgres_server):
    database_at(folder, postgres_server.new("migrated"))
    assert "database" in of(folder, "ok")


@pytest.mark.parametrize("system", ["sqlite", "postgres"])
def test_who_serves_on_the_database_is_said(folder, system, request):
    if system == "postgres":
        database_at(folder, request.getfixturevalue("postgres_server").new("migrated"))
    assert of(folder, "ok")["serve"].seen == "nobody serves on the database now"
    engine = open_engine(folder.database(folder.config()))
    held = Alone(folder.root, engine)
    assert re.match(rf"pid {os.getpid()} on \S+, since .* serves$", of(folder, "ok")["serve"].seen)
    os.utime(folder.file, times=(time.time() + 60, time.time() + 60))
    found = of(folder, "warning")["serve"]
    assert found.seen.endswith("serves, by an older fleet.toml than the one that is there")
    assert "start flwr-fleet serve again" in found.advice
    held.release()
    engine.dispose()


def test_a_postgresql_that_does_not_answer_is_a_fault_and_its_password_is_not_shown(folder):
    database_at(folder, f"postgresql+psycopg://ann:hidden@127.0.0.1:{free_port()}/fleet")
    found = of(folder, "fault")
    assert "started" in found["database"].advice
    assert "hidden" not in str(found)


def test_looking_changes_nothing(folder):
    database_gone(folder)
    before = sorted(folder.root.rglob("*"))
    examine(folder, folder.config())
    assert sorted(folder.root.rglob("*")) == before


def hang_up(listening):
    """Take one caller, and say nothing."""
    listening.accept()[0].close()


@pytest.mark.parametrize(("name", "table"), [("enrolment-port", "server"), ("broker", "broker")])
def test_a_port_that_somebody_else_has_is_a_fault(folder, name, table):
    place = getattr(folder.config(), table)
    with socket.create_server(("127.0.0.1", place.port)) as other:
        stranger = threading.Thread(target=hang_up, args=(other,))
        stranger.start()
        found = of(folder, "fault")
        stranger.join(10)
    assert "not as this fleet" in found[name].seen


def show(listening, context):
    """Take one caller, and show it a certificate."""
    caller, _ = listening.accept()
    with caller, contextlib.suppress(OSError):
        context.wrap_socket(caller, server_side=True).close()


@pytest.mark.parametrize(("name", "table"), [("enrolment-port", "server"), ("broker", "broker")])
def test_a_certificate_that_has_expired_is_not_somebody_else(folder, name, table):
    own, place = folder.root / table, getattr(folder.config(), table)
    issue(folder, authority(folder, -100 * DAY), own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own / "certificate.pem", own / "key.pem")
    with socket.create_server(("127.0.0.1", place.port)) as own_server:
        shower = threading.Thread(target=show, args=(own_server, context))
        shower.start()
        found = of(folder, "fault")
        shower.join(10)
    assert "shows a certificate that has expired" in found[name].seen
    assert found[name].advice.startswith("run flwr-fleet serve, which renews it")


def test_a_key_file_that_others_read_sends_nobody_to_a_backup(folder):
    (folder.root / "secret.key").chmod(0o644)
    found = of(folder, "fault")
    for name in ("ca-key", "signing-key"):
        assert "chmod 600 it" in found[name].seen
        assert found[name].advice.startswith("do what this says")


def test_an_address_of_another_machine_is_a_fault(folder):
    text = folder.file.read_text()
    folder.file.write_text(text.replace('listen = "127.0.0.1"', 'listen = "127.0.0.1.nowhere"', 1))
    assert of(folder, "fault")["enrolment-port"].advice


def test_a_server_of_this_fleet_is_well(folder):
    opened = registry(folder)
    keeper = Keeper(folder, folder.config(), opened, authority(folder))
    with opened, Site(keeper) as site:
        text = folder.file.read_text()
        port = f"port = {folder.config().server.port}"
        folder.file.write_text(text.replace(port, f"port = {site.port}"))
        assert "enrolment-port" in of(folder, "ok")


def test_the_command_says_it_to_people_and_to_programs(folder, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["doctor", "--fleet", str(folder.root), *words])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    code, out, _ = run()
    assert code == 0
    assert "run flwr-fleet serve" in out
    crl_gone(folder)
    code, out, err = run("--format", "json")
    assert code == 5
    [lost] = [one for one in json.loads(out) if one["state"] == "fault" and one["name"] == "crl"]
    assert set(lost) == {"name", "state", "seen", "advice"}
    assert "fault" in err
    folder.file.write_text("name = 3\n")
    assert run()[0] == 2
