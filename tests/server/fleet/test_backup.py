"""Backup while serving, and a restore after which devices go on."""

import io
import os
import re
import shutil
import tarfile
import threading
from dataclasses import replace

import pytest
from sqlalchemy import insert, inspect, text

from client.enrolment import enrol, rotate
from client.identity import Identity
from schemas.base import ConfigError
from schemas.fleet import FleetFolder
from server.cli import main
from server.database import migrate, open_engine, pending, revision_of
from server.fleet import claims, dump, sealed, secret
from server.fleet.authority import Authority
from server.fleet.backup import _with_database, backup, check, restore
from server.fleet.errors import Denied, Refusal
from server.fleet.keeper import Keeper
from server.fleet.registry import Claim, Embedding, Registry, Update, audit
from server.fleet.sealed import Opener, Sealer, SealError
from tests.server.fleet.requests import claim, new_key, request, rotation
from tests.server.fleet.site import Site
from tests.server.fleet.test_enrolment import do, rows

WORD = b"a long passphrase"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A test need not resist who guesses passphrases."""
    monkeypatch.setattr(sealed, "_WORK", 2**10)


def opened(root, registry):
    folder = FleetFolder(root)
    config = folder.config()
    authority = Authority(folder, config.lifetimes, secret.load(folder, config))
    return Keeper(folder, config, registry, authority)


@pytest.fixture
def config(keeper, database):
    """The fleet's file, naming the database of this test."""
    return keeper.config.model_copy(update={"database": str(database)})


@pytest.mark.parametrize("target", ["sqlite", "postgres"])
def test_a_fleet_goes_on_elsewhere(
    keeper, registrar, config, tmp_path, request: pytest.FixtureRequest, target
):
    identity = Identity(tmp_path / "device")
    with Site(keeper) as site:
        (made,) = do(keeper, claims.create, claims.Terms(1), keeper.authority.serving.id, [None])
        enrol(identity, site.name, made, "watch-1", print)
        with keeper.registry.write("x") as write:
            write.db.add(Embedding(device="watch-1", run="r", at=1.0, values=b"\0\xff\x7f"))
            write.db.add(Update(device="watch-1", run="r", at=1.5, verdict="accepted", norm=0.1))
        backup(keeper.folder, config, tmp_path / "b", WORD, objects=False)
    before = rows(keeper.registry)
    url = "registry.sqlite"
    if target == "postgres":
        url = request.getfixturevalue("postgres_server").new()
    restore(tmp_path / "b", tmp_path / "other", WORD, url)
    folder = FleetFolder(tmp_path / "other")
    with Registry(folder.database(folder.config())) as registry:
        assert rows(registry) == before
        with registry.read() as db:
            assert db.get_one(Embedding, ("watch-1", "r")).values == b"\0\xff\x7f"
            assert list(audit.faults(db)) == []
        with registry.write("x") as write:  # numbers go on
            write.db.add(Update(device="watch-1", run="r", at=2.0, verdict="refused"))
            write.audit("a", "b")
        with Site(opened(tmp_path / "other", registry)) as site:
            facts = identity.current / "identity.json"
            facts.write_text(facts.read_text().replace(identity.facts()["server"], site.name))
            assert rotate(identity).state == "accepted"


def test_what_is_wrong_leaves_no_folder(keeper, registrar, config, tmp_path):
    registrar.enrol(request(claim(keeper)), "10.0.0.1")
    backup(keeper.folder, config, tmp_path / "b", WORD, objects=True)
    data = (tmp_path / "b").read_bytes()
    assert b"BEGIN" not in data
    flipped = data[:99] + bytes([data[99] ^ 1]) + data[100:]
    for bad in (data[:-1], data[:40], b"", flipped, data + b"x"):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(SealError):
            restore(tmp_path / "bad", tmp_path / "new", WORD, "registry.sqlite")
    with pytest.raises(SealError, match="another passphrase"):
        restore(tmp_path / "b", tmp_path / "new", b"another passphrase", "registry.sqlite")
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "x").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        restore(tmp_path / "b", tmp_path / "new", WORD)
    shutil.rmtree(tmp_path / "new")
    with pytest.raises(Refusal, match="the database is not empty"):
        restore(tmp_path / "b", tmp_path / "new", WORD, config.database)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".restore")] == []


@pytest.fixture
def fleet(made, migrated, tmp_path):
    """Make a fleet with a row, whose file says something else than the defaults."""

    def make(name="fleet", **says):
        folder = FleetFolder(tmp_path / name)
        shutil.copytree(made, folder.root)
        text = folder.file.read_text()
        for default, other in {"registry.sqlite": "database", "secret.key": "secret"}.items():
            text = text.replace(f'"{default}"', f'"{says.get(other, default)}"')
        folder.file.write_text(text)
        for default, path in (
            (migrated, folder.database(folder.config())),
            (folder.root / "secret.key", folder.secret(folder.config())),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path != default:
                shutil.copy(default, path)
        if "secret" in says:
            (folder.root / "secret.key").unlink()
        with Registry(folder.database(folder.config())) as registry, registry.write("x") as tx:
            tx.audit("a", "b")
        return folder

    return make


def saved(folder, file, *, objects=False):
    backup(folder, folder.config(), file, WORD, objects=objects)
    return file


def files(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("lies", "named"),
    [
        ("db/registry.sqlite", "db/registry.sqlite"),
        ("./registry.sqlite", "./registry.sqlite"),
        ("db/registry.sqlite", "link.sqlite"),
        ("db/registry.sqlite", "sqlite:///{}/db/registry.sqlite"),
    ],
)
def test_the_database_is_left_out_wherever_it_lies(fleet, tmp_path, lies, named):
    folder = fleet(database=lies)
    (folder.root / "link.sqlite").symlink_to(lies)
    text = folder.file.read_text().replace(f'"{lies}"', f'"{named.format(folder.root)}"')
    folder.file.write_text(text)
    with Registry(folder.database(folder.config())) as registry, registry.read():
        file = saved(folder, tmp_path / "b")
    assert restore(file, tmp_path / "new", WORD, "other.sqlite") == 1
    assert [name for name in files(tmp_path / "new") if "sqlite" in name] == ["other.sqlite"]


def test_a_fleet_goes_back_to_the_place_of_its_database(fleet, tmp_path):
    for number, where in enumerate(("db/registry.sqlite", "../out.sqlite", "/new/in.sqlite")):
        root = tmp_path / f"new{number}"
        name = f"{root}/in.sqlite" if where.startswith("/") else where
        folder = fleet(f"fleet{number}", database="registry.sqlite")
        file = saved(folder, tmp_path / f"b{number}")
        assert restore(file, root, WORD, name) == 1
        assert (root / name).resolve().is_file()


def test_files_that_come_and_go_are_left_out(fleet, tmp_path, monkeypatch):
    folder = fleet()
    sha, gone = "a" * 64, "b" * 64
    stay = {f"objects/federation/{sha}", "bundles/world.map", "server/notes.part", "new-house"}
    go = {
        f"objects/federation/{gone}",
        f"objects/federation/{gone}.part",
        f"objects/federation/{gone}.map",
        f"objects/federation/new-{gone}",
        "server/.key.pem.0123abcd",
        "bundles/tmpab_1cd2e",
        "zzz/vanishes/x",
        ".lock",
    }
    for name in stay | go:
        (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / name).touch()
    real = tarfile.TarFile.addfile

    def vanish(self, entry, *data):
        real(self, entry, *data)
        if entry.name.endswith(sha):
            (folder.root / f"objects/federation/{gone}").unlink()
            (folder.root / f"objects/federation/new-{gone}").unlink()
        if entry.name == "zzz":
            shutil.rmtree(folder.root / "zzz" / "vanishes")

    monkeypatch.setattr(tarfile.TarFile, "addfile", vanish)
    file = saved(folder, tmp_path / "b", objects=True)
    restore(file, tmp_path / "new", WORD)
    there = files(tmp_path / "new")
    assert stay <= there
    assert not go & there


def test_what_cannot_be_read_is_no_file_that_went(fleet, tmp_path, monkeypatch):
    folder = fleet()
    real = type(tmp_path).iterdir

    def iterdir(self):
        if self == folder.bundles:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    with pytest.raises(PermissionError, match="bundles"):
        saved(folder, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("there", [b"another\n", None])
def test_a_dry_run_leaves_the_key_file_elsewhere_as_it_is(
    fleet, tmp_path, monkeypatch, capsys, there
):
    key = tmp_path / "disk" / "secret.key"
    file = saved(fleet(secret=key), tmp_path / "b")
    key.unlink() if there is None else key.write_bytes(there)
    before = files(tmp_path)
    monkeypatch.setenv("FLWR_FLEET_BACKUP_PASSPHRASE", WORD.decode())
    with pytest.raises(SystemExit) as ended:
        main(["restore", str(file), str(tmp_path / "no" / "where"), "--dry-run"])
    assert ended.value.code == 0
    assert "is whole: 1 rows; nothing was changed" in capsys.readouterr().err
    assert files(tmp_path) == before
    assert there is None or key.read_bytes() == there
    assert not (tmp_path / "no").exists()


def test_a_restore_says_as_of_when_and_what_it_does_not_know(fleet, tmp_path, monkeypatch, capsys):
    file = saved(fleet(), tmp_path / "b")
    monkeypatch.setenv("FLWR_FLEET_BACKUP_PASSPHRASE", WORD.decode())
    with pytest.raises(SystemExit) as ended:
        main(["restore", str(file), str(tmp_path / "new")])
    assert ended.value.code == 0
    said = capsys.readouterr().err
    assert re.search(r"restored \d+ rows, as of 20\d\d-", said)
    assert "what was revoked, rotated or enrolled since then it does not know" in said
    assert "next: flwr-fleet broker config" in said  # its configuration names the old folder


def test_a_rotation_since_the_backup_is_refused_with_the_reason(
    keeper, registrar, config, clock, tmp_path
):
    first = registrar.enrol(request(claim(keeper, "watch-1"), key=(key := new_key())), "10.0.0.1")
    backup(keeper.folder, config, tmp_path / "b", WORD, objects=False)
    asked = rotation(first.certificate, key, new=(newer := new_key()))
    second = registrar.rotate(asked, "10.0.0.1")
    restore(tmp_path / "b", tmp_path / "other", WORD, "registry.sqlite")
    with Registry(tmp_path / "other" / "registry.sqlite", clock=clock) as registry:
        old = replace(registrar, registry=registry)
        with pytest.raises(Denied, match="newer than the backup that this registry is from"):
            old.rotate(rotation(second.certificate, newer), "10.0.0.1")
        terms = claims.Terms(1.0, replaces=True)
        (made,) = do(old, claims.create, terms, keeper.authority.serving.id, ["watch-1"])
        again = old.enrol(request(made.sent, key=new_key()), "10.0.0.1")
    assert again.state == "accepted"


def test_another_key_file_is_never_overwritten(fleet, tmp_path):
    key, database = tmp_path / "disk" / "secret.key", tmp_path / "other.sqlite"
    file = saved(fleet(secret=key), tmp_path / "b")
    key.write_bytes(b"another\n")
    with pytest.raises(
        ConfigError, match=r"disk/secret\.key: .*another key.*move it away"
    ) as error:
        restore(file, tmp_path / "new", WORD, str(database))
    assert len(error.value.problems) == 1
    assert key.read_bytes() == b"another\n"
    shutil.rmtree(key.parent)
    with pytest.raises(ConfigError, match=r"disk/secret\.key: .*no folder"):
        restore(file, tmp_path / "new", WORD, str(database))
    assert not database.exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("where", ["{}/disk/secret.key", "../disk/secret.key", "keys/secret.key"])
def test_the_key_file_comes_back_to_its_place_alone(fleet, tmp_path, where):
    folder = fleet(secret=where.format(tmp_path))
    key = folder.secret(folder.config()).resolve()
    data, file = key.read_bytes(), saved(folder, tmp_path / "b")
    key.unlink()
    full = fleet("full")
    with pytest.raises(Refusal):  # and nothing half-written
        restore(file, tmp_path / "new", WORD, str(full.root / "registry.sqlite"))
    assert not key.exists()
    for name in ("new", "newer"):  # the second finds the same key there
        restore(file, tmp_path / name, WORD)
        made = FleetFolder(tmp_path / name)
        path = made.secret(made.config())
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (data, 0o600)
        assert not (made.root / "secret.key").exists()
        secret.load(made, made.config())


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_sealed_files_give_back_what_they_took(size):
    data = bytes(range(256)) * (size // 256 + 1)
    out = io.BytesIO()
    with Sealer(out, WORD) as sealer:
        for start in range(0, size, 300_000):
            sealer.write(data[start : min(size, start + 300_000)])
    file = out.getvalue()
    assert io.BufferedReader(Opener(io.BytesIO(file), WORD)).read() == data[:size]
    chunk = (1 << 20) + 16
    head, body = file[:32], file[32:]
    for broken in (body[:-1], body[chunk:], body[:chunk], body[chunk:] + body[:chunk]):
        if broken != body:
            with pytest.raises(SealError):
                io.BufferedReader(Opener(io.BytesIO(head + broken), WORD)).read()


@pytest.fixture(params=["sqlite", "postgres"])
def earlier(request, fleet, tmp_path):
    """A fleet whose database is of the first revision, on either system."""
    url = str(tmp_path / "old.sqlite")
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_server").new()
    engine = open_engine(url)
    migrate(engine, "0001")
    with engine.begin() as connection:
        known = {table.name: table for table in dump._tables(connection)}
        device = {"id": "watch-1", "state": "accepted", "created": 1.5, "changed": 2.0, "note": ""}
        update = {"device": "watch-1", "run": "r", "action": "train", "at": 1.0, "bytes": 7}
        claim = {"id": "c" * 12, "secret": "s", "created": 1.0, "expires": 2.0, "tags": ["a", "b"]}
        claim |= {"uses": 1, "used": 0, "replaces": True, "approval": "automatic", "note": "ü🛰"}
        known_by = {"device": "watch-1", "run": "r", "at": 1.0, "values": b"\0\xff"}
        connection.execute(insert(known["claims"]), [claim])
        connection.execute(insert(known["devices"]), [device])
        connection.execute(insert(known["updates"]), [update | {"verdict": "accepted"}] * 3)
        connection.execute(insert(known["embeddings"]), [known_by])
    engine.dispose()
    folder = fleet()
    folder.file.write_text(folder.file.read_text().replace('"registry.sqlite"', f'"{url}"'))
    return folder


@pytest.mark.parametrize("target", ["sqlite", "postgres"])
def test_a_backup_before_an_upgrade_is_restored_after_it(
    earlier, tmp_path, request, target, monkeypatch, capsys
):
    monkeypatch.setenv("FLWR_FLEET_BACKUP_PASSPHRASE", WORD.decode())
    file, url = tmp_path / "b", "new.sqlite"
    with pytest.raises(SystemExit) as ended:
        main(["backup", str(file), "--fleet", str(earlier.root)])
    assert ended.value.code == 0
    assert "6 rows" in (said := capsys.readouterr().err)
    assert "not in the audit log" in said
    if target == "postgres":
        url = request.getfixturevalue("postgres_server").new()
    assert restore(file, tmp_path / "new", WORD, url) == 6
    folder = FleetFolder(tmp_path / "new")
    with Registry(folder.database(folder.config())) as registry:
        with registry.read() as db:
            claim = db.get_one(Claim, "c" * 12)
            assert (claim.tags, claim.replaces, claim.note) == (["a", "b"], True, "ü🛰")
            assert db.get_one(Embedding, ("watch-1", "r")).values == b"\0\xff"
            assert [row.object for row in db.query(Update)] == [None] * 3
        with registry.write("x") as write:  # numbers go on
            write.db.add(Update(device="watch-1", run="r", at=2.0, verdict="refused", object="o"))
    engine = open_engine(earlier.database(earlier.config()))
    assert pending(engine)  # what was backed up is as it was
    engine.dispose()


def test_a_database_that_is_not_empty_is_left_at_its_revision(earlier, fleet, tmp_path):
    file = saved(fleet("other"), tmp_path / "b")
    url = earlier.database(earlier.config())
    with pytest.raises(Refusal, match="the database is not empty"):
        restore(file, tmp_path / "new", WORD, str(url))
    engine = open_engine(url)
    with engine.connect() as connection:
        assert revision_of(connection) == "0001"
    engine.dispose()
    assert not (tmp_path / "new").exists()


def test_a_database_whose_tables_are_empty_is_filled_at_the_backups_revision(
    earlier, database, tmp_path
):
    assert restore(saved(earlier, tmp_path / "b"), tmp_path / "new", WORD, str(database)) == 6
    with Registry(database) as registry, registry.read() as db:
        assert db.query(Update).count() == 3


def test_a_transport_ledger_alone_is_not_empty(fleet, tmp_path):
    from server.transport import Ledger

    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add_device("a", 5)
    ledger.close()
    with pytest.raises(Refusal, match="the database is not empty"):
        restore(
            saved(fleet(), tmp_path / "b"), tmp_path / "new", WORD, str(tmp_path / "ledger.sqlite")
        )
    engine = open_engine(tmp_path / "ledger.sqlite")
    assert "devices" not in inspect(engine).get_table_names()
    engine.dispose()


def test_what_is_newer_is_refused_on_both_ways(fleet, tmp_path, monkeypatch):
    folder = fleet()
    file = saved(folder, tmp_path / "b")
    engine = open_engine(folder.database(folder.config()))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Refusal, match=r"of a newer release \(9999\)"):
        saved(folder, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    lines = io.BytesIO(b'{"revision":"9999"}\n')
    with pytest.raises(Refusal, match="a newer release: this one does not know '9999'"):
        dump.load(open_engine(tmp_path / "n.sqlite"), lines)
    with engine.begin() as connection:
        for table in ("audit", "devices"):
            connection.execute(text(f"DELETE FROM {table}"))
    engine.dispose()
    with pytest.raises(Refusal, match=r"newer release \(9999\); restore into a new one"):
        restore(file, tmp_path / "new", WORD, str(folder.database(folder.config())))


def test_a_backup_goes_through_a_pipe(fleet, tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    saved(fleet(), pipe)
    reader.join(5)
    (tmp_path / "b").write_bytes(read[0])
    assert check(tmp_path / "b", WORD) == 1
    assert pipe.is_fifo()


def test_backups_in_the_folder_are_in_no_backup(fleet, tmp_path):
    folder = fleet()
    first = saved(folder, folder.root / "fleet.flwrseal")
    size = saved(folder, folder.root / "second.flwrseal").stat().st_size
    assert size < 1.5 * first.stat().st_size
    restore(folder.root / "second.flwrseal", tmp_path / "new", WORD)
    assert [name for name in files(tmp_path / "new") if "flwrseal" in name] == []


@pytest.mark.parametrize("name", ["🛰.sqlite", 'a"b.sqlite', "a\x7fb.sqlite"])
def test_another_database_may_have_any_name(fleet, tmp_path, name):
    file = saved(fleet(), tmp_path / "b")
    restore(file, tmp_path / "new", WORD, name)
    folder = FleetFolder(tmp_path / "new")
    assert folder.config().database == name
    assert (tmp_path / "new" / name).is_file()


def test_another_key_that_begins_alike_is_left_as_it_is(tmp_path, fleet):
    folder = fleet()
    rest = folder.file.read_text().replace("database =", "  database=")
    folder.file.write_text(f'database_of_ours = "x"\n{rest}')
    with pytest.raises(ConfigError, match="database_of_ours"):  # ours, and not overwritten
        _with_database(folder, "new.sqlite")
    assert folder.file.read_text().splitlines()[0] == 'database_of_ours = "x"'
    folder.file.write_text(rest)
    assert _with_database(folder, "new.sqlite").database == "new.sqlite"
