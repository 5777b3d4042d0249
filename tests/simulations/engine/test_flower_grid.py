from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from client.windows import PersonWindows
from simulations.engine import LocalGrid
from simulations.engine.flower_grid import FlowerGrid
from simulations.report.files import RunError

THEIRS = {9007: 1, 31: 2, 5005: 0}  # Flower's node ids, and the numbers of their places
OURS = {n: {"partition-id": p, "windows": f"/w/{n}"} for n, p in ((4, 0), (6, 1), (9, 2))}


@pytest.fixture
def flower() -> Iterator[LocalGrid]:
    """A grid whose node ids say nothing, as Flower's."""
    nodes = {node: {"partition-id": number} for node, number in THEIRS.items()}
    with LocalGrid("client.app:app", nodes, workers=2) as grid:
        yield grid


def place(node: int) -> Message:
    return Message(RecordDict(), dst_node_id=node, message_type="query.place", group_id="3")


def number(reply: Message) -> object:
    return reply.content.config_records["place"]["partition-id"]


def test_every_person_has_the_node_id_of_the_simulation(flower: LocalGrid) -> None:
    grid = FlowerGrid.of(flower, OURS, timeout=20)
    assert grid.get_node_ids() == [4, 6, 9]
    replies = grid.send_and_receive([place(9), place(4), place(6)])
    assert [reply.metadata.src_node_id for reply in replies] == [9, 4, 6]
    assert [number(reply) for reply in replies] == [2, 0, 1]
    assert {reply.metadata.group_id for reply in replies} == {"3"}


def test_replies_can_be_fetched_later(flower: LocalGrid) -> None:
    grid = FlowerGrid.of(flower, OURS, timeout=20)
    (sent,) = grid.push_messages([place(6)])
    replies: list[Message] = []
    while not replies:
        replies = grid.pull_messages([sent])
    assert [reply.metadata.src_node_id for reply in replies] == [6]
    assert grid.pull_messages([sent]) == []


def test_devices_forget_and_learn_where_the_windows_lie(flower: LocalGrid, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.array([0, 1])
    x = rng.standard_normal((2, 8, 3)).astype(np.float32)
    PersonWindows(x, y, x, y).save(tmp_path)
    ours: dict[int, Mapping[str, Any]] = {
        n: {**c, "windows": str(tmp_path), "adapters": "/kept"} for n, c in OURS.items()
    }
    grid = FlowerGrid.of(flower, ours, timeout=20)
    flower.restore({31: b""})
    grid.restore({})
    assert set(flower.states()) == set(THEIRS)
    assert all(str(tmp_path).encode() in state for state in flower.states().values())
    assert all(b"/kept" in state for state in flower.states().values())
    with pytest.raises(ValueError, match="cannot be put back"):
        grid.restore({4: b"state"})


def test_an_error_keeps_its_reason_and_gets_our_node_id(flower: LocalGrid) -> None:
    grid = FlowerGrid.of(flower, OURS, timeout=20)
    message = Message(RecordDict({"x": ConfigRecord()}), dst_node_id=4, message_type="train")
    (reply,) = grid.send_and_receive([message])
    assert reply.has_error()
    assert reply.metadata.src_node_id == 4
    assert "config" in reply.error.reason


def test_who_does_not_answer_in_time_is_left_out(flower: LocalGrid) -> None:
    grid = FlowerGrid.of(flower, OURS, timeout=20)
    assert grid.send_and_receive([place(4)], timeout=0.0) == []


def test_too_few_nodes_are_an_error_that_says_how_many(flower: LocalGrid) -> None:
    four = {**OURS, 12: {"partition-id": 3, "windows": "/w/12"}}
    with pytest.raises(RunError, match=r"4 persons, but 3 nodes .* 'num-supernodes=4'"):
        FlowerGrid.of(flower, four, timeout=20, wait=0)


def test_a_place_that_nobody_has_is_an_error() -> None:
    nodes = {1: {"partition-id": 0}, 2: {"partition-id": 7}, 3: {}}
    with (
        LocalGrid("client.app:app", nodes, workers=1) as flower,
        pytest.raises(RunError, match="no node answers to partition-id 1, 2"),
    ):
        FlowerGrid.of(flower, OURS, timeout=20)


def test_a_place_that_two_have_is_an_error() -> None:
    nodes = {1: {"partition-id": 0}, 2: {"partition-id": 0}, 3: {"partition-id": 1}}
    with (
        LocalGrid("client.app:app", nodes, workers=1) as flower,
        pytest.raises(RunError, match="two nodes have partition-id 0"),
    ):
        FlowerGrid.of(flower, OURS, timeout=20)
