"""What ``serve`` calls every few seconds."""

import pytest

from schemas.memory_link import MemoryBroker, MemoryLink
from server.fleet.registry import Registry
from server.fleet.rollouts import GroupSpec, Terms, create, service
from tests.client import orders
from tests.server.fleet import folders


def test_it_starts_with_the_first_roll_out_and_not_twice(tmp_path, migrated, monkeypatch):
    folder = folders.made(tmp_path / "fleet", migrated, "a")
    broker = MemoryBroker()
    made = []

    def link(*_):
        made.append(MemoryLink(broker, "server"))
        return made[-1]

    monkeypatch.setattr(service, "server_link", link)
    monkeypatch.setattr(service, "signing_key", lambda *_: orders.KEY)
    service.tick(folder, folder.config())
    assert not made
    folders.published(folder, orders.made(tmp_path / "walk.flwb"), "walk")
    with Registry(folder.root / "registry.sqlite") as registry:
        create(registry, "test", "walk", [GroupSpec.parse("rest")], Terms())
    service.tick(folder, folder.config())
    service.tick(folder, folder.config())
    assert len(made) == 1
    service.stop(folder)
    service.stop(folder)


def test_a_signing_key_that_is_not_there_is_named(tmp_path, migrated):
    from schemas.base import ConfigError
    from server.fleet.signer import signing_key

    folder = folders.made(tmp_path / "fleet", migrated)
    with pytest.raises(ConfigError, match="key file cannot be read"):
        signing_key(folder, folder.config())
