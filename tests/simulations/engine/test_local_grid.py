import os
import signal
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, Message
from flwr.serverapp import Grid

from server.flower_private import empty_run
from simulations.engine import LocalGrid, arena
from simulations.engine.pool import WorkerError

Make = Callable[..., LocalGrid]
Ask = Callable[..., Message]


def vector(message: Message) -> np.ndarray:
    assert message.has_content(), message.error
    return message.content["arrays"]["vector"].numpy()


def test_is_a_grid_and_replies_in_the_order_of_the_messages(make_grid: Make, ask: Ask) -> None:
    grid = make_grid(nodes=9, workers=2)
    assert isinstance(grid, Grid)
    assert grid.get_node_ids() == list(range(9))
    assert [info.node_id for info in grid.get_nodes()] == list(range(9))
    order = [4, 0, 8, 1, 7, 2, 3, 6, 5]
    replies = grid.send_and_receive([ask(node, vector=[node]) for node in order])
    assert [reply.metadata.src_node_id for reply in replies] == order
    assert [int(vector(reply)[0]) for reply in replies] == order


def test_one_and_two_workers_give_the_same(make_grid: Make, ask: Ask) -> None:
    def rounds(workers: int) -> tuple[list[bytes], dict[int, bytes]]:
        grid = make_grid(nodes=7, workers=workers)
        weights, trail = np.linspace(0, 1, 2000, dtype=np.float32), []
        for _ in range(4):
            shared = Array(weights)
            replies = grid.send_and_receive(ask(node, "work", shared) for node in range(7))
            weights = np.mean([vector(reply) for reply in replies], axis=0, dtype=np.float32)
            trail.append(weights.tobytes())
        return trail, grid.states()

    assert rounds(1) == rounds(2)


def test_metadata_is_that_of_flower(make_grid: Make, ask: Ask) -> None:
    grid = make_grid()
    grid.set_run(empty_run(42))
    message = ask(3)
    (reply,) = grid.send_and_receive([message])
    sent, got = message.metadata, reply.metadata
    assert grid.run.run_id == sent.run_id == got.run_id == 42
    assert got.reply_to_message_id == sent.message_id != ""
    assert got.message_id not in ("", sent.message_id)
    assert (got.src_node_id, got.dst_node_id) == (3, sent.src_node_id)
    assert (got.group_id, got.message_type) == ("7", "train.echo")
    made = grid.create_message(message.content, "query", 1, "3", ttl=5.0)
    assert (made.metadata.dst_node_id, made.metadata.ttl, made.metadata.group_id) == (1, 5.0, "3")


def test_a_worker_sees_its_configs_and_imports_nothing_heavy(make_grid: Make, ask: Ask) -> None:
    grid = make_grid(run_config={"rate": 0.5, "name": "x"})
    facts = grid.send_and_receive([ask(2, "look")])[0].content["facts"]
    assert facts["run_config"] == "{'rate': 0.5, 'name': 'x'}"
    assert facts["node_config"] == "{'partition-id': 2}"
    assert (facts["node_id"], facts["run_id"]) == (2, grid.run.run_id)
    assert facts["pid"] in grid.worker_pids
    heavy = {"torch", "sqlalchemy", "ray", "hypernet", "pandas", "seglearn"}
    assert not heavy & set(facts["modules"])
    light = ("simulations.engine", "server.flower_private", "server.own_grid")
    assert all(name.startswith(light) for name in facts["ours"] if "." in name)


def test_nan_and_big_payloads_pass_untouched(make_grid: Make, ask: Ask) -> None:
    grid = make_grid()
    strange = np.array([np.nan, -np.nan, np.inf, -0.0, 5e-324])
    big = np.random.default_rng(0).standard_normal(1_000_000)
    replies = grid.send_and_receive(
        [ask(0, vector=strange, nan=float("nan")), *(ask(node, vector=big) for node in (1, 2, 3))]
    )
    assert vector(replies[0]).tobytes() == strange.tobytes()
    assert np.isnan(replies[0].content["config"]["nan"])
    assert all(vector(reply).tobytes() == big.tobytes() for reply in replies[1:])


def test_pushed_messages_can_be_pulled_as_they_finish(make_grid: Make, ask: Ask) -> None:
    grid = make_grid()
    ids = grid.push_messages([ask(node, vector=[node]) for node in (1, 2)])
    got: list[Message] = []
    while len(got) < 2:
        got += grid.pull_messages(ids)
    assert {reply.metadata.reply_to_message_id for reply in got} == set(ids)
    assert grid.pull_messages(ids) == []


def test_no_messages_give_no_replies(make_grid: Make) -> None:
    assert make_grid().send_and_receive([]) == []


def test_many_messages_to_one_node_run_in_order(make_grid: Make, ask: Ask) -> None:
    grid = make_grid()
    replies = grid.send_and_receive([ask(1, "count") for _ in range(40)])
    assert [reply.content["seen"]["n"] for reply in replies] == list(range(1, 41))


def test_a_thousand_nodes(make_grid: Make, ask: Ask) -> None:
    grid = make_grid(nodes=1000)
    weights = Array(np.zeros(10_000, np.float32))
    replies = grid.send_and_receive(ask(node, "echo", weights) for node in range(1000))
    assert [reply.metadata.src_node_id for reply in replies] == list(range(1000))
    shared = os.fstat(grid._pool.arena.fd).st_blocks * 512
    assert shared < 1_000_000  # the one model lies there once


def test_an_idle_grid_gives_back_what_a_peak_took(
    make_grid: Make, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena, "_KEEP", 1 << 16)
    grid = make_grid(workers=1)
    grid.send_and_receive([ask(node, vector=np.zeros(100_000)) for node in range(3)])
    assert os.fstat(grid._pool.arena.fd).st_blocks == 0
    os.kill(grid.worker_pids[0], signal.SIGKILL)
    assert len(grid.send_and_receive([ask(0), ask(1)])) == 2  # what a new worker reads is there


def test_states_are_kept_and_restored(make_grid: Make, ask: Ask) -> None:
    grid = make_grid()
    assert grid.states() == {}
    grid.send_and_receive([ask(1, "count"), ask(2, "count")])
    saved = grid.states()
    assert set(saved) == {1, 2}
    grid.send_and_receive([ask(1, "count"), ask(3, "count")])
    grid.restore(saved)
    replies = grid.send_and_receive([ask(node, "count") for node in (1, 2, 3)])
    assert [reply.content["seen"]["n"] for reply in replies] == [2, 2, 1]
    other = make_grid()
    other.restore(saved)
    assert other.send_and_receive([ask(2, "count")])[0].content["seen"]["n"] == 2


def test_a_client_that_fails_leaves_its_state_as_it_was(make_grid: Make, ask: Ask) -> None:
    grid = make_grid()
    grid.send_and_receive([ask(1, "count")])
    before = grid.states()
    (reply,) = grid.send_and_receive([ask(1, "count", fail=True)])
    assert reply.error.reason == "RuntimeError: after the state was changed"
    assert grid.states() == before


@pytest.mark.parametrize("state", [b"x", b"\xff\xff\xff\xffzz", b"\x02\x00\x00\x00{}", b"\0" * 99])
def test_a_damaged_state_is_refused(make_grid: Make, ask: Ask, state: bytes) -> None:
    grid = make_grid(workers=1)
    grid.send_and_receive([ask(1, "count")])
    saved = grid.states()
    for bad in (state, saved[1][:-1], saved[1].replace(b'"n":1', b'"n":{')):
        with pytest.raises(ValueError, match="state of node 0: not a"):
            grid.restore({0: bad})
    with pytest.raises(ValueError, match="no such node"):
        grid.restore({99: saved[1]})
    assert grid.states() == saved


def test_what_cannot_be_sent_is_refused_before_anything_runs(make_grid: Make, ask: Ask) -> None:
    grid = make_grid()
    with pytest.raises(ValueError, match="message to node 17: there is no such node"):
        grid.push_messages([ask(1, "count"), ask(17)])
    twice = ask(1)
    with pytest.raises(ValueError, match="sent twice"):
        grid.push_messages([twice, twice])
    (reply,) = grid.send_and_receive([twice])
    with pytest.raises(ValueError, match="sent before"):
        grid.push_messages([twice])
    with pytest.raises(ValueError, match=r"no such node|a reply"):
        grid.push_messages([reply])
    assert grid.states() == {}


def test_close_twice_and_use_after(make_grid: Make, ask: Ask) -> None:
    grid = make_grid()
    pids = grid.worker_pids
    grid.close()
    grid.close()
    with pytest.raises(RuntimeError, match="closed"):
        grid.send_and_receive([ask(1)])
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("engine_clients:not_an_app", "is a str, not a flwr.clientapp.ClientApp"),
        ("engine_clients:missing", "AttributeError"),
        ("no_such_module:app", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_an_app_that_does_not_load_is_one_clear_error(
    make_grid: Make, app: str, reason: str
) -> None:
    with pytest.raises(WorkerError, match=reason):
        make_grid(app=app)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"timeout": 0.0}, {"timeout": float("nan")}])
def test_bad_settings_are_refused(make_grid: Make, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_grid(**wrong)


def test_an_idle_worker_that_is_killed_is_replaced(make_grid: Make, ask: Ask) -> None:
    grid = make_grid(workers=1)
    os.kill(grid.worker_pids[0], signal.SIGKILL)
    replies = grid.send_and_receive([ask(node, vector=[node]) for node in (0, 1)])
    assert len(replies) == 2
    assert sum(reply.has_error() for reply in replies) <= 1  # if it was sent before we knew
