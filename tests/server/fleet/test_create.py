"""``init`` run again: what is there stays and can be opened, what is missing is made."""

import shutil
import sys

import pytest
from sqlalchemy import select

from schemas.base import ConfigError
from schemas.fleet import FleetConfig, FleetFolder
from schemas.signing import public_hex
from server.fleet import secret
from server.fleet.authority import Authority
from server.fleet.create import create, signing_key
from server.fleet.registry import Audit, Registry


@pytest.fixture
def folder(made, migrated, tmp_path):
    """A fleet that ``init`` made."""
    shutil.copytree(made, tmp_path / "fleet")
    shutil.copy(migrated, tmp_path / "fleet" / "registry.sqlite")
    return FleetFolder(tmp_path / "fleet")


@pytest.fixture
def asked(monkeypatch):
    """Questions at the terminal, each answered by one passphrase."""
    prompts = []
    secret._typed.cache_clear()
    monkeypatch.delenv(secret.VARIABLE, raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        secret.getpass, "getpass", lambda text: prompts.append(text) or "a passphrase"
    )
    yield prompts
    secret._typed.cache_clear()


def again(folder):
    create(folder, folder.config(), lambda _: None)


def opens_all(folder):
    config = folder.config()
    key = secret.load(folder, config)
    assert b"BEGIN X509 CRL" in Authority(folder, config.lifetimes, key).crl([]).encode()
    return public_hex(signing_key(folder, key))


def test_a_key_that_was_not_made_yet_is_encrypted_with_the_secret_that_is_there(folder):
    kept = (folder.root / "secret.key").read_bytes()
    folder.signing_key.unlink()
    folder.signing_public.unlink()
    again(folder)
    assert (folder.root / "secret.key").read_bytes() == kept
    assert opens_all(folder) == folder.signing_public.read_text().strip()


def test_a_secret_without_keys_is_used(folder):
    kept = (folder.root / "secret.key").read_bytes()
    shutil.rmtree(folder.ca)
    for name in ("signing.key", "signing.pub", "server/certificate.pem"):
        (folder.root / name).unlink()
    again(folder)
    assert (folder.root / "secret.key").read_bytes() == kept
    opens_all(folder)


@pytest.mark.parametrize("left", ["ca/1.key", "signing.key"])
def test_no_secret_is_made_beside_a_key_that_it_would_not_open(folder, left):
    (folder.root / "secret.key").unlink()
    other = {"ca/1.key": folder.signing_key, "signing.key": folder.ca / "1.key"}[left]
    other.unlink()
    with pytest.raises(ConfigError, match=rf"secret\.key: .*{left}.*from a backup"):
        again(folder)
    assert not (folder.root / "secret.key").exists()
    assert not other.exists()


@pytest.mark.parametrize("other", ["another secret\n", "\n"])
def test_no_key_is_encrypted_with_a_secret_that_opens_none_of_the_others(folder, other):
    folder.signing_key.unlink()
    (folder.root / "secret.key").write_text(other)
    with pytest.raises(ConfigError):
        again(folder)
    assert not folder.signing_key.exists()


def test_an_empty_secret_encrypts_nothing(folder):
    shutil.rmtree(folder.ca)
    folder.signing_key.unlink()
    (folder.root / "secret.key").write_text("\n")
    with pytest.raises(ConfigError, match=r"secret\.key: is empty"):
        again(folder)


def test_the_public_half_is_made_again_of_the_key(folder):
    public = folder.signing_public.read_text()
    folder.signing_public.unlink()
    again(folder)
    assert folder.signing_public.read_text() == public


def test_a_passphrase_is_asked_for_twice_only_where_it_is_new(folder, asked):
    shutil.rmtree(folder.ca)
    folder.signing_key.unlink()
    text = folder.file.read_text().replace('kind = "file"', 'kind = "passphrase"')
    folder.file.write_text(text)
    (folder.server / "certificate.pem").unlink()
    again(folder)
    assert len(asked) == 2
    folder.signing_key.unlink()
    asked.clear()
    again(folder)
    assert len(asked) == 1
    asked.clear()
    opens_all(folder)
    opens_all(folder)  # serve reads keys at its start and again for its roll-outs
    assert not asked


def audited(url):
    with Registry(url) as registry, registry.read() as db:
        return [row.action for row in db.scalars(select(Audit).order_by(Audit.number))]


def test_a_second_fleet_on_a_database_is_refused_and_makes_nothing(database, tmp_path):
    config = FleetConfig(database=str(database))
    create(FleetFolder(tmp_path / "one"), config, lambda _: None)
    before = audited(database)
    two = FleetFolder(tmp_path / "two")
    with pytest.raises(
        ConfigError, match=r"the registry of another fleet, whose CA is [0-9a-f]{64}"
    ):
        create(two, config, lambda _: None)
    assert not two.root.exists()
    assert audited(database) == before
    create(FleetFolder(tmp_path / "one"), config, lambda _: None)  # its own may, again and again
    create(two, FleetConfig(), lambda _: None)
    two.file.write_text(two.file.read_text().replace("registry.sqlite", str(database)))
    with pytest.raises(ConfigError, match="of another fleet"):
        again(two)


def test_no_ca_is_made_beside_a_registry_whose_ca_is_lost(folder):
    again(folder)
    shutil.rmtree(folder.ca)
    with pytest.raises(ConfigError, match=r"bring .*ca back from that fleet's backup"):
        again(folder)
    assert not folder.ca.exists()


def test_what_ended_before_there_was_a_fleet_is_begun_again(tmp_path, monkeypatch):
    folder = FleetFolder(tmp_path / "new")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(secret, "write", full)
        with pytest.raises(OSError, match="No space left"):
            create(folder, FleetConfig(), lambda _: None)
    assert sorted(path.name for path in folder.root.iterdir()) == ["broker", "bundles", "objects"]
    (folder.bundles / "x").touch()
    with pytest.raises(ConfigError, match="holds bundles, and no fleet; name an empty folder"):
        create(folder, FleetConfig(), lambda _: None)
    (folder.bundles / "x").unlink()
    create(folder, FleetConfig(), lambda _: None)
    assert folder.config() == FleetConfig()


def test_what_init_writes_reads_back(tmp_path):
    from schemas.fleet import BrokerPlace

    config = FleetConfig(
        database='🛰 "a"\x7f.sqlite', broker=BrokerPlace(reload=("do", "it \\ 🛰"), names=("a", "b"))
    )
    folder = FleetFolder(tmp_path / "new")
    create(folder, config, lambda _: None)
    assert folder.config() == config
