"""Backup while serving, and a restore after which devices go on."""

import io
import shutil

import pytest

from client.enrolment import enrol, rotate
from client.identity import Identity
from schemas.base import ConfigError
from schemas.fleet import FleetFolder
from server.fleet import claims, sealed, secret
from server.fleet.authority import Authority
from server.fleet.backup import backup, restore
from server.fleet.errors import Refusal
from server.fleet.keeper import Keeper
from server.fleet.registry import Embedding, Registry, Update, audit
from server.fleet.sealed import Opener, Sealer, SealError
from tests.server.fleet.requests import claim, request
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
