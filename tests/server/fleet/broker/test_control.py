"""What a broker is told without one: that it follows is ``test_revocation.py``'s."""

import shutil

import pytest

from schemas.fleet import FleetFolder
from server.fleet.broker import control
from server.fleet.broker.control import BrokerError, Control, make_control


@pytest.fixture
def told(made, tmp_path, monkeypatch):
    """Tell the broker by a command; what is said where it fails."""
    folder = FleetFolder(tmp_path / "fleet")
    shutil.copytree(made, folder.root)
    make_control(folder)
    config = folder.config()
    monkeypatch.setattr(Control, "_wait_for_loop", lambda _: None)
    monkeypatch.setattr(control, "_PATIENCE", 1.0)

    def tell(*words):
        broker = config.broker.model_copy(update={"reload": words})
        with pytest.raises(BrokerError) as caught:
            Control(folder, config.model_copy(update={"broker": broker})).signal()
        return str(caught.value)

    return tell


def test_a_command_that_fails_says_why_in_its_own_words(told):
    said = told("sh", "-c", "echo first >&2; echo no such unit >&2; exit 3")
    assert said.startswith("broker.reload: ")
    assert "exit status 3" in said
    assert said.endswith(": no such unit")
    slow = told("sh", "-c", "printf 'b\\351d' >&2; exec sleep 9")
    assert slow.endswith(": b\N{REPLACEMENT CHARACTER}d")


def test_a_command_that_says_nothing_or_is_not_there(told):
    assert told("false").endswith("exit status 1.")
    assert "No such file" in told("/no/such/command")
