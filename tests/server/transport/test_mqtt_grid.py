"""The grid without faults, and over its own restarts."""

import re
import threading

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from schemas.payload import Payload
from schemas.signing import new_key, public_hex, verify_task
from schemas.wire import Failed, decode, node_of
from server.flower_private import CLIENT_RAISED, NO_REPLY, empty_run
from server.transport import mqtt_grid, waiting
from tests.server.transport.conftest import Fleet
from tests.server.transport.fake_device import weights


def vector(reply: Message) -> np.ndarray:
    return reply.content.array_records["delta"]["weights"].numpy()


def test_a_message_goes_and_its_reply_comes(fleet: Fleet) -> None:
    device = fleet.device("a")
    fleet.grid.set_run(empty_run(42))
    task = fleet.push("a")
    (reply,) = fleet.pull(task)
    meta = reply.metadata
    assert np.array_equal(vector(reply), 2 * weights(0))
    assert reply.content.metric_records["metrics"]["num-examples"] == 3
    assert (meta.src_node_id, meta.reply_to_message_id, meta.run_id) == (node_of("a"), task, 42)
    assert (meta.group_id, meta.message_type) == ("1", "train")
    assert device.received == [device.results[task].payload.sha256]
    assert fleet.pull(task) == []
    assert fleet.grid.drops() == {}


def test_nodes_are_who_is_enrolled_and_online(fleet: Fleet) -> None:
    assert fleet.grid.get_node_ids() == []
    fleet.device("a")
    fleet.device("b")
    fleet.device("c", enrol=False)
    fleet.ledger.add_device("d", node=7)
    both = sorted([node_of("a"), node_of("b")])
    assert fleet.grid.get_node_ids() == both == fleet.grid.wait_for(2, 0.1)
    fleet.devices["a"].link.close()
    fleet.devices["b"].state(online=False)
    fleet.broker.pump()
    assert node_of("b") not in fleet.grid.get_node_ids()
    fleet.device("d")
    fleet.ledger.remove_device("a")
    assert fleet.grid.get_node_ids() == [7]


def test_an_open_ledger_admits_who_states_itself_but_nobody_who_was_removed(fleet: Fleet) -> None:
    fleet.ledger.admit_all = True
    fleet.device("a", enrol=False)
    assert fleet.grid.get_node_ids() == [node_of("a")]
    fleet.ledger.remove_device("a")
    fleet.devices["a"].state(online=True)
    fleet.broker.pump()
    assert fleet.grid.get_node_ids() == []
    assert fleet.grid.drops() == {("?", "stranger"): 1}


def test_big_answers_and_bytes_come_by_chunk(fleet: Fleet) -> None:
    graph = np.random.default_rng(1).bytes(300_000)
    big = weights(3, 200_000)
    answer = Payload(arrays={"delta": {"weights": big}}, config={"graphs": {"one": graph}})
    device = fleet.device("a", lambda task, asked: answer)
    task = fleet.push("a")
    (reply,) = fleet.pull(task)
    assert np.array_equal(vector(reply), big)
    assert reply.content.config_records["graphs"]["one"] == graph
    assert all(len(want.numbers()) == 1 for want in device.wanted)
    assert len(device.wanted) == sum(
        ref.chunks for ref in (device.results[task].payload, *device.results[task].objects)
    )


def test_bytes_values_of_a_request_travel_as_objects(fleet: Fleet) -> None:
    device = fleet.device("a", lambda task, asked: Payload(config=asked.config))
    graph = b"graph" * 100_000
    content = RecordDict({"graphs": ConfigRecord({"one": graph})})
    (task,) = fleet.grid.push_messages([Message(content, node_of("a"), "query.install")])
    (reply,) = fleet.pull(task)
    assert reply.content.config_records["graphs"]["one"] == graph
    assert len(device.tasks[task].objects) == 1


def test_replies_come_in_the_order_of_the_messages_and_the_late_are_withdrawn(
    fleet: Fleet,
) -> None:
    names = ["a", "b", "c", "d"]
    for name in names:
        fleet.device(name)
    fleet.devices["c"].works = False
    fleet.broker.start()
    try:
        replies = fleet.grid.send_and_receive([fleet.ask(n) for n in names], timeout=1.5)
    finally:
        fleet.broker.stop()
    fleet.broker.pump()
    assert [r.metadata.src_node_id for r in replies] == [node_of(n) for n in "abd"]
    assert fleet.devices["c"].cancelled == list(fleet.devices["c"].tasks)


def test_who_is_waited_for_is_told_now_and_then(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "TELL_EVERY", 0.2)
    names = [f"watch-{number}" for number in range(9)]
    for name in names:
        fleet.device(name).works = name == "watch-0"
    fleet.broker.start()
    try:
        fleet.grid.send_and_receive([fleet.ask(name) for name in names], timeout=1.5)
    finally:
        fleet.broker.stop()
    said = [line for line in fleet.lines if "waiting for" in line]
    assert 2 <= len(said) <= 7
    assert said[-1].startswith("round 1, train: 1 of 9 answered after ")
    whom = ", ".join(names[1:6])
    assert re.search(f"; waiting for {whom} and 3 more, [01] s at most$", said[-1])


def test_ctrl_c_withdraws_what_nobody_waits_for_any_more(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        fleet.broker.pump()
        raise KeyboardInterrupt

    device = fleet.device("a")
    device.works = False
    monkeypatch.setattr(mqtt_grid, "wait_for_answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fleet.grid.send_and_receive([fleet.ask("a")])
    fleet.broker.pump()
    assert device.cancelled == list(device.tasks) != []
    assert fleet.ledger.open_tasks() == []


def test_a_message_may_be_withdrawn(fleet: Fleet) -> None:
    device = fleet.device("a")
    device.works = False
    task = fleet.push("a")
    fleet.grid.withdraw([task, "unknown"])
    assert fleet.pull(task) == []
    assert device.cancelled == [task]
    device.result(task, Payload())
    fleet.broker.pump()
    assert fleet.grid.drops() == {("a", "late"): 1}
    fleet.grid.withdraw([task])


def test_after_a_new_connection_devices_are_who_states_so(fleet: Fleet) -> None:
    fleet.device("a")
    gone = fleet.device("b")
    fleet.broker.crash(forget=True)
    gone.link.close()
    fleet.broker.up()
    fleet.broker.pump()
    assert fleet.grid.get_node_ids() == [node_of("a")]


def test_what_cannot_be_sent_is_refused_whole(fleet: Fleet) -> None:
    fleet.device("a")
    good, sent = fleet.ask("a"), fleet.ask("a")
    fleet.grid.push_messages([sent])
    fleet.broker.pump()
    for wrong, why in ((fleet.ask("x"), "no enrolled"), (sent, "sent before"), (good, "twice")):
        with pytest.raises(ValueError, match=why):
            fleet.grid.push_messages([good, wrong])
    fleet.broker.pump()
    assert len(fleet.devices["a"].tasks) == 1


def test_a_device_that_was_removed_gives_an_error_and_the_others_are_asked(fleet: Fleet) -> None:
    gone = fleet.device("gone")
    fleet.device("there")
    done = fleet.push("gone")
    assert not fleet.pull(done)[0].has_error()
    fleet.ledger.remove_device("gone")
    fleet.new_grid()  # another life, which would take the answer that is there
    ids = fleet.grid.push_messages([fleet.ask("gone"), fleet.ask("there", seed=1)])
    fleet.broker.pump()
    lost, good = fleet.pull(*ids)
    assert lost.error.code == CLIENT_RAISED
    assert lost.error.reason == "device gone: it is enrolled no more"
    assert lost.metadata.src_node_id == node_of("gone")
    assert np.array_equal(vector(good), 2 * weights(1))
    assert list(gone.tasks) == [done]
    with pytest.raises(ValueError, match=f"message to node {node_of('x')}: no enrolled"):
        fleet.grid.push_messages([fleet.ask("gone"), fleet.ask("x")])


def test_a_device_that_fails_gives_an_error(fleet: Fleet) -> None:
    device = fleet.device("a")
    device.works = False
    task = fleet.push("a")
    device.say(Failed(reason="LearnerError: no windows"), re=task)
    (reply,) = fleet.pull(task)
    assert reply.error.code == CLIENT_RAISED
    assert "no windows" in (reply.error.reason or "")
    assert device.cancelled == [task]  # it need not say so again


def test_a_message_whose_time_is_over_gives_an_error(fleet: Fleet) -> None:
    fleet.device("a").works = False
    task = fleet.push("a", ttl=60)
    fleet.later(30)
    assert fleet.pull(task) == []
    fleet.later(31)
    (reply,) = fleet.pull(task)
    assert reply.error.code == NO_REPLY


def test_a_device_that_was_away_gets_its_task(fleet: Fleet) -> None:
    fleet.ledger.add_device("a")
    task = fleet.push("a")
    fleet.device("a")
    assert len(fleet.pull(task)) == 1


def test_tasks_are_signed_for_their_device(fleet: Fleet) -> None:
    key, heard = new_key(), []
    fleet.grid.close()
    fleet.new_grid(key=key)
    device = fleet.device("a")
    take = device.link.on_message
    device.link.on_message = lambda message: (heard.append(message), take(message))[1]
    task = fleet.push("a")
    said = next(decode(m.payload) for m in heard if m.topic.endswith("cmd"))
    verify_task(public_hex(key), "a", said)
    assert len(fleet.pull(task)) == 1


def test_a_new_life_takes_answers_and_open_tasks_over(fleet: Fleet) -> None:
    """Server killed mid-round: one answer was pulled, one is here, one is under way."""
    for name in "abc":
        fleet.device(name)
    fleet.devices["c"].works = False
    old = [fleet.push(name) for name in "abc"]
    assert len(fleet.pull(old[0])) == 1
    fleet.grid.close()
    fleet.new_grid()
    assert len(fleet.grid.get_node_ids()) == 3
    new = fleet.grid.push_messages([fleet.ask(name) for name in "abc"])
    assert new == old
    assert len(fleet.pull(*new)) == 2
    fleet.devices["c"].works = True
    fleet.later(20)  # the task is said again
    assert len(fleet.pull(*new)) == 1
    assert [len(fleet.devices[name].done) for name in "abc"] == [1, 1, 1]
    assert fleet.push("a") not in old  # the same asked again in one life is asked again


def test_an_upload_under_way_goes_on_in_a_new_life(fleet: Fleet) -> None:
    answer = Payload(arrays={"delta": {"weights": weights(0, 200_000)}})
    device = fleet.device("a", lambda task, asked: answer)
    device.serves = False
    fleet.push("a")
    (want,) = device.wanted
    device.serve(want)
    fleet.broker.pump()
    fleet.grid.close()
    device.serves = True
    fleet.new_grid()
    task = fleet.push("a")
    assert len(fleet.pull(task)) == 1
    assert len(device.done) == 1
    served = [number for want in device.wanted for number in want.numbers()]
    assert served.count(0) == 1


def test_questions_are_asked_afresh_in_a_new_life(fleet: Fleet) -> None:
    device = fleet.device("a")
    first = fleet.push("a", action="query.graphs")
    fleet.grid.close()
    fleet.new_grid()
    assert fleet.push("a", action="query.graphs") != first
    assert len(device.done) == 2


def test_an_answer_whose_object_is_gone_is_asked_anew(fleet: Fleet) -> None:
    device = fleet.device("a")
    task = fleet.push("a")
    fleet.objects.remove(device.results[task].payload.sha256)
    fleet.grid.close()
    fleet.new_grid()
    assert fleet.push("a") != task


def test_devices_keep_states_by_the_runs_name(fleet: Fleet) -> None:
    device = fleet.device("a")
    fleet.grid.restore({})
    fleet.push("a")
    states = fleet.grid.states()
    fleet.grid.restore({})
    fleet.push("a")
    fleet.grid.restore(states)
    fleet.push("a", seed=1)
    assert [task.run for task in device.tasks.values()] == ["run/1", "run/2", "run/1"]
    fleet.grid.restore({})
    assert fleet.grid.states() == {0: b"run/2"}
    for wrong in ({1: b"x"}, {0: b"runs/1"}, {0: b"run/x"}, {0: b"\xff"}):
        with pytest.raises(ValueError, match="another run"):
            fleet.grid.restore(wrong)


def test_the_watch_ticks_by_itself(fleet: Fleet) -> None:
    fleet.grid.close()
    before = threading.active_count()
    fleet.new_grid(interval=0.01)
    fleet.device("a").works = False
    task = fleet.push("a", ttl=10)
    fleet.clock.now += 11
    with fleet.grid._courier.changed:
        fleet.grid._courier.changed.wait_for(lambda: not fleet.ledger.waiting([task]), 5)
    assert fleet.pull(task)[0].has_error()
    fleet.grid.close()
    assert threading.active_count() == before
