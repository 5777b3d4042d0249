import contextlib
import json
import socket
import threading
import time

import pytest

from client.local_api import MAX_LINE, ApiError, LocalApi, ask


def refuse(_):
    raise ValueError("no such window")


def break_down(_):
    raise KeyError("inside")


HANDLERS = {
    "status": lambda asked: {"paused": False, "heard": asked.get("x")},
    "refuse": refuse,
    "break": break_down,
    "odd": lambda _: {"value": object()},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "api.sock"


@pytest.fixture
def api(path):
    api = LocalApi(path, HANDLERS)
    api.start()
    yield api
    api.stop()
    assert not path.exists()


def raw(path, data, *, end=True):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            return [json.loads(line) for line in file]


def test_a_question_is_answered(api, path):
    assert ask(path, "status", x=[1, 2]) == {"paused": False, "heard": [1, 2]}


def test_a_connection_may_ask_again(api, path):
    answers = raw(path, b'{"do": "status", "x": 1}\n{"do": "refuse"}\n{"do": "status"}\n')
    assert [answer["ok"] for answer in answers] == [True, False, True]


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("refuse", "no such window"),
        ("break", "break failed: KeyError"),
        ("odd", "odd failed: TypeError"),
        ("nothing", "with one of break, odd, refuse, status"),
    ],
)
def test_what_goes_wrong_is_told(api, path, action, said):
    with pytest.raises(ApiError, match=said):
        ask(path, action)
    assert ask(path, "status")


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"do": 3}\n',
        b'{"do": ["status"]}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"do": "status"',
    ],
)
def test_odd_lines_get_an_error_and_harm_nobody(api, path, line):
    (answer,) = raw(path, line)
    assert not answer["ok"]
    assert ask(path, "status")


def test_a_line_without_end_is_not_read_for_ever(api, path):
    try:
        (answer,) = raw(path, b"x" * (MAX_LINE + 1), end=False)
        assert "longer than" in answer["error"]
    except ConnectionError:  # it was hung up on while it still wrote
        pass
    assert ask(path, "status")


def eventually_answers(path):
    for _ in range(50):
        with contextlib.suppress(ApiError):
            return ask(path, "status")
        time.sleep(0.05)
    return None


def test_idle_connections_take_no_more_than_their_places(api, path):
    idle = []
    try:
        for _ in range(40):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(path))
            idle.append(connection)
    finally:
        for connection in idle:
            connection.close()
    assert eventually_answers(path)


def test_who_finds_no_place_is_told(api, path):
    with contextlib.ExitStack() as held:
        for _ in range(16):
            held.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        with pytest.raises(ApiError, match="the daemon says: 16 programs are connected"):
            ask(path, "status")
    assert eventually_answers(path)


def test_several_may_ask_at_once(api, path):
    answers = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(ask(path, "status", x=n)["heard"]))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == list(range(8))


def test_a_socket_of_a_killed_daemon_is_replaced(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    api = LocalApi(path, HANDLERS)
    api.start()
    assert ask(path, "status")
    api.stop()


def test_a_second_daemon_is_refused_and_the_first_goes_on(api, path):
    with pytest.raises(OSError, match="another daemon answers here"):
        LocalApi(path, HANDLERS).start()
    assert ask(path, "status")


def test_another_kind_of_file_is_left_alone(tmp_path):
    path = tmp_path / "api.sock"
    path.write_text("mine")
    with pytest.raises(OSError, match="is no socket"):
        LocalApi(path, HANDLERS).start()
    assert path.read_text() == "mine"


@pytest.mark.parametrize("refused", ["socket.socket.bind", "socket.socket.connect"])
def test_a_place_that_may_not_be_used_is_named(path, monkeypatch, refused):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    path.parent.mkdir()
    if refused.endswith("connect"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    monkeypatch.setattr(refused, denied)
    with pytest.raises(OSError, match=f"{path}: .* Permission denied; --socket names another"):
        LocalApi(path, HANDLERS).start()


def test_a_path_too_long_is_named(tmp_path):
    with pytest.raises(OSError, match="at most 107 bytes"):
        LocalApi(tmp_path / ("x" * 120), HANDLERS).start()


def test_only_user_and_group_may_ask(api, path):
    assert path.stat().st_mode & 0o777 == 0o660


def test_no_daemon_is_said(tmp_path):
    with pytest.raises(ApiError, match="no daemon answers here"):
        ask(tmp_path / "none.sock", "status")


def test_why_no_daemon_answers_is_said_in_words(tmp_path):
    with pytest.raises(ApiError, match="no daemon answers here: No such file or directory"):
        ask(tmp_path / "none.sock", "status")


def test_a_daemon_that_ends_meanwhile_hung_up(path):
    path.parent.mkdir()

    def end():
        connection, _ = listener.accept()
        connection.recv(100)
        connection.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=end, daemon=True).start()
        with pytest.raises(ApiError, match="no daemon answers here: it hung up"):
            ask(path, "status")


def test_stopping_twice_is_fine(path):
    api = LocalApi(path, HANDLERS)
    api.stop()
    api.start()
    api.stop()
    api.stop()
