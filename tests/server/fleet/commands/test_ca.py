"""``flwr-fleet ca`` where something comes between."""

import shutil

import pytest

from schemas.fleet import FleetFolder
from server import cli
from server.fleet.commands import ca
from server.fleet.commands.options import Fleet
from server.fleet.keeper import Keeper
from server.fleet.registry import Registry, audit


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
