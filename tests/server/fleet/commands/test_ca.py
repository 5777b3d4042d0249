"""``flwr-fleet ca`` where something comes between."""

import json
import re
import shutil
import time

import pytest

from schemas.fleet import FleetFolder
from server import cli
from server.fleet import secret
from server.fleet.authority import Authority
from server.fleet.commands import ca
from server.fleet.commands.options import Fleet
from server.fleet.enrolment import Registrar
from server.fleet.keeper import Keeper
from server.fleet.registry import Registry, audit
from tests.server.fleet.requests import claim, request


@pytest.fixture
def folder(made, migrated, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "fleet")
    shutil.copy(migrated, tmp_path / "fleet" / "registry.sqlite")
    monkeypatch.setenv("FLWR_FLEET", str(tmp_path / "fleet"))
    return FleetFolder(tmp_path / "fleet")


@pytest.fixture
def roll(folder, capsys):
    """Roll over; the exit code, and what was said."""

    def go():
        with pytest.raises(SystemExit) as ended:
            cli.main(["ca", "rollover", "--yes"])
        return ended.value.code or 0, capsys.readouterr().err

    return go


def test_a_roll_over_since_the_question_is_seen(folder, roll, monkeypatch):
    def meanwhile(*_, **__):
        with Fleet(folder.root).keeper() as keeper:
            keeper.authority.roll_over("x")
        return True

    monkeypatch.setattr(ca, "confirm", meanwhile)
    code, err = roll()
    assert (code, "a roll-over is under way" in err) == (1, True)
    assert sorted(path.name for path in folder.ca.glob("*.pem")) == ["1.pem", "2.pem"]


def test_a_roll_over_that_would_lock_devices_out_is_refused(folder, roll, capsys):
    """One hears of the new authority when it rotates alone, long after the server has changed."""

    def lifetimes(**days):
        text = folder.file.read_text()
        for key, value in days.items():
            text = re.sub(rf"{key} = .*", f"{key} = {value}", text)
        folder.file.write_text(text)

    lifetimes(device_days=365)
    with Fleet(folder.root).keeper() as keeper:
        registrar = Registrar(keeper.registry, keeper.authority, keeper.config, "ab" * 32)
        registrar.enrol(request(claim(keeper, "watch-1")), "10.0.0.1")
    code, err = roll()
    assert code == 1
    assert "certificates of 1 device outlast half of overlap_days" in err
    assert "lifetimes.overlap_days = 730" in err
    assert sorted(path.name for path in folder.ca.glob("*.pem")) == ["1.pem"]
    lifetimes(overlap_days=730)
    assert roll()[0] == 0


def test_an_authority_that_has_expired_is_said_and_can_be_replaced(folder, roll, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main(list(words))
        return ended.value.code or 0, *capsys.readouterr()

    ends = (folder.ca / "1.pem", folder.ca / "1.key")
    for path in ends:
        path.unlink()
    config, then = folder.config(), time.time() - 3700 * 86_400
    key = secret.load(folder, config)
    Authority.create(folder, config.lifetimes, key, config.name, lambda: then)
    for words in (("claim", "create"), ("serve", "--port", "0"), ("init", str(folder.root))):
        code, _, err = run(*words)
        assert code == 1
        assert re.search("authority 1 expired at .*; run flwr-fleet ca rollover", err)
    code, out, _ = run("ca", "list", "--format", "json")
    assert (code, json.loads(out)[0]["trusted"]) == (0, False)
    assert roll()[0] == 0
    assert run("claim", "create")[0] == 0


def test_what_could_not_be_published_is_said_and_the_authority_is_noted(folder, roll, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device", "crl.pem")

    monkeypatch.setattr(Keeper, "publish", full)
    code, err = roll()
    assert code == 1
    assert "made authority 2" in err
    assert "the authority is made, but not everywhere" in err
    assert "No space left on device" in err
    with Registry(folder.root / "registry.sqlite") as registry, registry.read() as db:
        assert audit.newest(db, 1)[0].action == "ca.rollover"
