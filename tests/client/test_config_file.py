"""The daemon's configuration is completed by enrolment: the rest of it stays, or all of it."""

import os
import stat
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.config_file import _lines, updated
from schemas.base import ConfigError

CHANGES = {"device": "watch-7", "broker": {"host": "fleet.example", "port": 8883}}
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(allow_nan=False),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def defaults(tmp_path):
    (tmp_path / "windows").mkdir()
    return {"windows": {"folder": str(tmp_path / "windows")}}


def test_a_new_file_begins_with_the_defaults(tmp_path, defaults):
    path = tmp_path / "new" / "pi.toml"
    assert updated(path, CHANGES, defaults) is None
    assert tomllib.loads(path.read_text()) == CHANGES | defaults
    assert path.read_text().startswith("# The daemon's")
    assert [each.name for each in path.parent.iterdir()] == ["pi.toml"]


def test_what_enrolment_does_not_know_stays_and_the_file_before_is_kept(tmp_path, defaults):
    path = tmp_path / "pi.toml"
    folder = defaults["windows"]["folder"]
    before = (
        f'device = "old"  # mine\n[broker]\nhost = "x"\nkeepalive = 60\n[windows]\n'
        f'folder = "{folder}"\n'
    )
    path.write_text(before)
    assert updated(path, CHANGES, {"windows": {"folder": "/unused"}}) == str(tmp_path) + (
        "/pi.toml.before"
    )
    assert (tmp_path / "pi.toml.before").read_text() == before
    table = tomllib.loads(path.read_text())
    assert table["device"] == "watch-7"
    assert table["broker"] == {"host": "fleet.example", "keepalive": 60, "port": 8883}
    assert table["windows"] == defaults["windows"]
    assert updated(path, CHANGES, defaults) is None  # nothing new: nothing is kept


def test_a_link_stays_and_its_file_is_updated(tmp_path, defaults):
    file, link = tmp_path / "kept" / "watch.toml", tmp_path / "pi.toml"
    link.symlink_to("kept/watch.toml")
    updated(link, CHANGES, defaults)
    assert updated(link, {"device": "watch-8"}, defaults) == f"{file}.before"
    assert link.is_symlink()
    assert tomllib.loads(file.read_text())["device"] == "watch-8"
    assert {each.name for each in file.parent.iterdir()} == {"watch.toml", "watch.toml.before"}


@pytest.mark.parametrize(
    ("text", "changes", "says"),
    [
        ("device = ", {}, "Invalid value"),
        ("\xff", {}, "decode"),
        ('device = "a"\nnonsense = 1\n', CHANGES, "nonsense"),
        ('device = "a"\n', {"device": "NOT A NAME"}, "device"),
    ],
)
def test_a_file_that_would_not_be_good_stays_as_it_was(tmp_path, defaults, text, changes, says):
    path = tmp_path / "pi.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=says) as caught:
        updated(path, changes, defaults)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == text.encode("latin-1")
    assert {each.name for each in tmp_path.iterdir()} == {"pi.toml", "windows"}


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_every_value_is_read_back_as_it_was(table):
    assert tomllib.loads("\n".join(_lines(table))) == table


SERVICE = 4321  # a user's number


def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*toml*")}


def owners(folder):
    return {(path.stat().st_uid, path.stat().st_gid) for path in folder.glob("*toml*")}


def test_a_new_file_is_not_for_everybody(tmp_path, defaults):
    updated(tmp_path / "pi.toml", CHANGES, defaults)
    assert modes(tmp_path) == {"pi.toml": 0o640}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_file_and_what_it_was_before_keep_its_mode(tmp_path, defaults, mode):
    path = tmp_path / "pi.toml"
    updated(path, CHANGES, defaults)
    path.chmod(mode)
    updated(path, {"device": "watch-8"}, defaults)
    assert modes(tmp_path) == {"pi.toml": mode, "pi.toml.before": mode}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_root_writes_stays_whose_it_was(tmp_path, defaults):
    path = tmp_path / "pi.toml"
    updated(path, CHANGES, defaults)
    os.chown(path, SERVICE, SERVICE)
    updated(path, {"device": "watch-8"}, defaults)
    assert len(modes(tmp_path)) == 2
    assert owners(tmp_path) == {(SERVICE, SERVICE)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_new_file_of_roots_belongs_to_whom_the_state_does(tmp_path, defaults):
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", SERVICE, SERVICE)
    updated(tmp_path / "pi.toml", CHANGES | {"state": str(tmp_path / "state")}, defaults)
    assert owners(tmp_path) == {(SERVICE, SERVICE)}


def test_it_is_on_the_disk_before_it_takes_the_place(tmp_path, defaults, monkeypatch):
    done = []
    sync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), sync(file)))
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda one, to: (done.append(to.name), replace(one, to))[1]
    )
    updated(tmp_path / "pi.toml", CHANGES, defaults)
    assert done == ["sync", ".pi.toml.new", "sync", "pi.toml", "sync"]


def test_a_pipe_is_no_configuration(tmp_path, defaults):
    os.mkfifo(tmp_path / "pi.toml")
    with pytest.raises(ConfigError, match="is no plain file"):
        updated(tmp_path / "pi.toml", CHANGES, defaults)
