import argparse
import datetime as dt
import json

import pytest

from client.commands import control, status
from client.local_api import ApiError, LocalApi

SAID = {
    "device": "wrist-1",
    "paused": False,
    "task": None,
    "windows": {"held": 12, "troubles": {}, "kinds": ["a", "b"]},
}


@pytest.fixture
def asked(tmp_path):
    """What a daemon on a socket was asked."""
    asked = []

    def answer(request):
        asked.append(request["do"])
        return SAID

    actions = ("status", "prediction", "pause", "resume")
    api = LocalApi(tmp_path / "api.sock", dict.fromkeys(actions, answer))
    api.start()
    yield asked
    api.stop()


def flwr_edge(tmp_path, *words):
    parser = argparse.ArgumentParser()
    nouns = parser.add_subparsers(required=True)
    control.register(nouns)
    status.register(nouns)
    parsed = parser.parse_args([*words, "--socket", str(tmp_path / "api.sock")])
    parsed.run(parsed)


@pytest.mark.parametrize("word", ["pause", "resume"])
def test_pause_and_resume(asked, tmp_path, capsys, word):
    flwr_edge(tmp_path, word)
    assert asked == [word]
    assert capsys.readouterr().out == f"{word}d\n"


def test_status_is_a_line_a_value(asked, tmp_path, capsys):
    flwr_edge(tmp_path, "status")
    assert capsys.readouterr().out.splitlines() == [
        "device            wrist-1",
        "paused            no",
        "task              none",
        "windows held      12",
        "windows troubles  none",
        "windows kinds     a b",
    ]


def test_times_are_for_people_to_read(asked, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SAID, "windows", {"last_at": 1796066656.3})
    flwr_edge(tmp_path, "status")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "last at" in line]
    when = dt.datetime.fromisoformat(line.removeprefix("windows last at").strip())
    assert when.timestamp() == 1796066656


def test_no_prediction_yet_is_said(tmp_path, capsys):
    api = LocalApi(tmp_path / "api.sock", {"prediction": lambda _: {}})
    api.start()
    flwr_edge(tmp_path, "predictions")
    api.stop()
    assert capsys.readouterr().out == "none yet\n"


@pytest.mark.parametrize(("word", "action"), [("status", "status"), ("predictions", "prediction")])
def test_json(asked, tmp_path, capsys, word, action):
    flwr_edge(tmp_path, word, "--format", "json")
    assert json.loads(capsys.readouterr().out) == SAID
    assert asked == [action]


def test_no_daemon(tmp_path):
    with pytest.raises(ApiError, match="no daemon answers here"):
        flwr_edge(tmp_path, "status")
