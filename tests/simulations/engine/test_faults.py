import logging
import time
from collections.abc import Callable

import pytest
from flwr.app import Message

from server.flower_private import CLIENT_CRASHED, CLIENT_RAISED
from simulations.engine import LocalGrid

Make = Callable[..., LocalGrid]
Ask = Callable[..., Message]


def outcome(replies: list[Message]) -> list[str | None]:
    return [reply.error.reason if reply.has_error() else None for reply in replies]


def test_a_client_that_raises_is_an_error_reply(
    make_grid: Make, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "simulations.engine")
    grid = make_grid()
    pids = grid.worker_pids
    messages = [ask(0), ask(1, "fail"), ask(2, "leave"), ask(3, "refuse"), ask(0, "nothing")]
    replies = grid.send_and_receive(messages)
    assert outcome(replies) == [
        None,
        "ZeroDivisionError: no windows",
        "SystemExit: 3",
        "not today",
        "TypeError: the client app returned a NoneType, not a Message",
    ]
    assert replies[1].error.code == CLIENT_RAISED
    assert replies[3].error.code == 77
    assert replies[1].metadata.reply_to_message_id == messages[1].metadata.message_id
    assert replies[1].metadata.src_node_id == 1
    assert 'raise ZeroDivisionError("no windows")' in caplog.text
    assert grid.worker_pids == pids


def test_a_client_that_hangs_is_cut_off_and_the_others_run(make_grid: Make, ask: Ask) -> None:
    grid = make_grid(nodes=12, timeout=2.0)
    before = set(grid.worker_pids)
    actions = {3: "hang"}
    started = time.monotonic()
    replies = grid.send_and_receive([ask(node, actions.get(node, "count")) for node in range(12)])
    assert time.monotonic() - started < 30
    assert outcome(replies) == [None] * 3 + ["timed out after 2 s"] + [None] * 8
    assert replies[3].error.code == CLIENT_CRASHED
    assert len(before & set(grid.worker_pids)) == 1
    assert sorted(grid.states()) == [0, 1, 2, *range(4, 12)]


@pytest.mark.parametrize(
    ("action", "reason"),
    [("die", "worker died with signal 9"), ("exit", "worker died with exit code 5")],
)
def test_a_worker_that_dies_costs_one_client(
    make_grid: Make, ask: Ask, action: str, reason: str
) -> None:
    grid = make_grid(nodes=40)
    for _ in range(10):  # learn that clients are quick, so that workers hold many
        grid.send_and_receive([ask(node) for node in range(40)])
    replies = grid.send_and_receive(
        [ask(node, action if node == 20 else "count") for node in range(40)]
    )
    assert outcome(replies) == [None] * 20 + [reason] + [None] * 19
    assert all(reply.content["seen"]["n"] == 1 for reply in replies if reply.has_content())


def test_clients_that_are_all_fatal_do_not_loop(make_grid: Make, ask: Ask) -> None:
    grid = make_grid(nodes=5)
    replies = grid.send_and_receive([ask(node, "exit") for node in range(5)])
    assert outcome(replies) == ["worker died with exit code 5"] * 5
    assert outcome(grid.send_and_receive([ask(1)])) == [None]


def test_the_callers_timeout_returns_what_is_there(make_grid: Make, ask: Ask) -> None:
    grid = make_grid(nodes=6, workers=1, timeout=6.0)
    messages = [ask(0), ask(1, "hang"), *(ask(node, "count") for node in range(2, 6))]
    started = time.monotonic()
    replies = grid.send_and_receive(messages, timeout=2.0)
    assert time.monotonic() - started > 1.9
    # Had it waited for the client's own timeout, that client's error would be there.
    assert [reply.metadata.src_node_id for reply in replies] == [0]
    assert outcome(grid.send_and_receive([ask(5)])) == [None]
    assert not {2, 3, 4} & set(grid.states())  # withdrawn
    assert grid.pull_messages(message.metadata.message_id for message in messages) == []
