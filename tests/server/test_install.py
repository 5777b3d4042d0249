"""Graphs go where they are missing, once a machine, and one bad device does not stop the others."""

import hashlib

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from server.install import InstallError, install

GRAPHS = {hashlib.sha256(text).hexdigest(): text for text in (b"one", b"two", b"three")}
ONE, TWO, THREE = GRAPHS


class Machines:
    """Nodes that share what their machine has; a machine may refuse, lie or fall silent."""

    def __init__(self, machines, has=None, bad=()):
        self.machine = {node: m for m, nodes in machines.items() for node in nodes}
        self.has = {m: set((has or {}).get(m, ())) for m in machines}
        self.bad = dict(bad)
        self.installs = []

    def __call__(self, message):
        node = message.metadata.dst_node_id
        record = message.content.config_records["graphs"]
        machine = self.machine[node]
        how = self.bad.get(node)
        if message.metadata.message_type == "query.graphs":
            if how == "errs":
                return Message(Error(1, "broken"), reply_to=message)
            if how == "silent":
                return None
            if how == "babbles":
                return Message(RecordDict(), reply_to=message)
            missing = sorted(set(record["digests"]) - self.has[machine])
            if how == "wants more":
                missing = ["f" * 64]
            return Message(
                RecordDict({"graphs": ConfigRecord({"missing": missing})}), reply_to=message
            )
        self.installs.append((node, sorted(record)))
        if how == "full":
            return Message(Error(1, "OSError: No space left on device"), reply_to=message)
        if how == "mute":
            return None
        if how != "forgets":
            assert all(GRAPHS[digest] == graph for digest, graph in record.items())
            self.has[machine] |= set(record)
        return Message(RecordDict(), reply_to=message)


def test_each_machine_gets_each_graph_once(devices):
    machines = Machines({"a": [1, 2, 3], "b": [4, 5]})
    install(devices([1, 2, 3, 4, 5], machines), GRAPHS, 60)
    assert machines.installs == [(1, sorted(GRAPHS)), (4, sorted(GRAPHS))]
    assert all(has == set(GRAPHS) for has in machines.has.values())


def test_many_machines_are_sent_to_at_once(devices):
    """Devices of a fleet share nothing: one by one, each would take a question to all."""
    nodes = list(range(1, 41))
    machines = Machines({f"m{node}": [node] for node in nodes}, bad={3: "full"})
    grid = devices(nodes, machines)
    calls, send = [], grid.send_and_receive
    grid.send_and_receive = lambda asked, **more: (calls.append(1), send(asked, **more))[1]
    install(grid, GRAPHS, 60)
    assert [node for node, _ in machines.installs] == nodes
    assert len(calls) == 2 * 6 + 1  # 1, 2, 4, 8, 16 and 9 at once, each after a question


def test_only_what_is_missing_is_sent(devices):
    machines = Machines({"a": [1], "b": [2]}, has={"a": GRAPHS, "b": [ONE, THREE]})
    install(devices([1, 2], machines), GRAPHS, 60)
    assert machines.installs == [(2, [TWO])]


def test_nothing_is_sent_where_nothing_is_missing(devices):
    machines = Machines({"a": [1, 2]}, has={"a": GRAPHS})
    grid = devices([1, 2], machines)
    install(grid, GRAPHS, 60)
    assert machines.installs == []
    assert len(grid.sent) == 2


@pytest.mark.parametrize("how", ["full", "forgets", "mute"])
def test_a_node_that_never_takes_them_does_not_keep_the_others_from_theirs(devices, how):
    machines = Machines({"a": [1], "b": [2, 3]}, bad={1: how})
    install(devices([1, 2, 3], machines), GRAPHS, 60)
    assert machines.has["b"] == set(GRAPHS)
    assert [node for node, _ in machines.installs] == [1, 2]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("full", "No space left on device"),
        ("forgets", "lacks them still"),
        ("mute", "no reply within 60 s"),
    ],
)
def test_where_nobody_takes_them_the_run_ends_with_the_reason(devices, how, said):
    machines = Machines({"a": [1], "b": [2]}, bad={1: how, 2: how})
    with pytest.raises(InstallError, match=said) as caught:
        install(devices([1, 2], machines), GRAPHS, 60)
    assert "\n" not in str(caught.value)
    assert [node for node, _ in machines.installs] == [1, 2]


@pytest.mark.parametrize("how", ["errs", "silent", "babbles", "wants more"])
def test_a_node_that_does_not_answer_properly_is_left_to_its_first_round(devices, how):
    machines = Machines({"a": [1], "b": [2]}, bad={1: how})
    install(devices([1, 2], machines), GRAPHS, 60)
    assert [node for node, _ in machines.installs] == [2]


def test_no_nodes_no_messages(devices):
    grid = devices([], Machines({}))
    install(grid, GRAPHS, 60)
    assert grid.sent == []
