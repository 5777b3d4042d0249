"""What the broker refused stands in the audit log."""

from collections import Counter

from server.fleet.broker import log
from tests.server.fleet.broker.conftest import other_ca, wait
from tests.server.fleet.broker.test_attacks import audited


def told(place):
    log.tick(place.folder, place.config)
    return [(who, said["reason"], said["count"]) for who, said in audited(place, "broker.refused")]


def test_what_the_broker_refuses_is_audited(place, monkeypatch):
    files = place.enrol("watch-1")
    assert told(place) == []
    assert place.refused(place.forged("watch-1", other_ca()), "watch-1")
    assert place.refused(place.forged("watch-1", start=-2, end=-1), "watch-1")
    assert place.refused((files[0], None, None), "watch-1")
    place.connect(place.enrol("watch-2"), "watch-2").say("flwr/v1/watch-2/evt", b"x" * 200_000)
    written = place.folder.broker / "mosquitto.log"

    def refused(times):
        return wait(lambda: log.refusals(written.read_text().splitlines()).total() == times)

    assert refused(4)
    seen = [("?", "certificate", 2), ("?", "no-certificate", 1), ("watch-2", "oversized", 1)]
    assert sorted(told(place)) == seen
    assert sorted(told(place)) == seen  # a line counts once

    assert place.revoke("watch-1") == []
    for _ in range(3):
        assert place.refused(files, "watch-1")
    assert refused(7)
    assert sorted(told(place)) == seen  # and a kind once an hour
    monkeypatch.setattr(log, "_QUIET", 0.0)
    assert told(place)[3:] == [("?", "certificate", 3)]


def test_a_long_log_makes_room_for_another(place, monkeypatch):
    file, missing = place.folder.broker / "mosquitto.log", "did not return"
    files = place.enrol("watch-1")

    def refuse(times):
        for _ in range(times):
            assert place.refused((files[0], None, None), "watch-1")
        assert wait(lambda: file.read_text().count(missing) == times)

    refuse(5)
    monkeypatch.setattr(log, "_QUIET", 0.0)
    monkeypatch.setattr(log, "_LARGEST", 10)
    assert told(place) == [("?", "no-certificate", 5)]
    monkeypatch.setattr(log, "_LARGEST", 1 << 20)
    assert wait(file.exists)
    assert file.with_suffix(".log.1").exists()
    refuse(1)  # the new log is shorter than what was read of the old one
    assert told(place)[1:] == [("?", "no-certificate", 1)]


def test_lines_beside_others_that_say_nothing_of_the_kind():
    lines = [
        "2026-11-29T00:28:56: New client connected from 127.0.0.1:44651 as watch-1 (p5, c0, k30).",
        "2026-11-29T00:28:56: Client <unknown> disconnected: Protocol error.",
        "2026-11-29T00:28:56: OpenSSL Error[0]: error:0A000126:SSL routines::unexpected eof",
        "2026-11-29T00:28:56: Client watch-7 disconnected: Protocol error.",
        "2026-11-29T00:28:56: Client connection from 127.0.0.1 failed: error:0A000126:SSL.",
        "2026-11-29T00:28:56: Client connection from ::1 failed: error:0A0000C7:SSL routines::peer "
        "did not return a certificate.",
    ]
    refused = {("watch-7", "protocol", ""): 1, ("?", "no-certificate", ""): 1}
    assert log.refusals(lines) == Counter(refused)


def test_denied_publishes_are_audited_by_topic_and_a_flood_is_a_few_rows(place, monkeypatch):
    monkeypatch.setattr(log, "_MINUTE", 0.0)
    peer = place.connect(place.enrol("watch-1"), "watch-1")
    forged = "x', ... (1 bytes))2026: Client watch-7 disconnected due to oversize packet"
    for topic in ("flwr/v1/watch-2/evt", "flwr/v1/watch-2/evt", "$CONTROL/x", forged):
        assert peer.say(topic) == "Not authorized"
    assert peer.say("flwr/v1/watch-1/evt") in ("Success", "No matching subscribers")
    log.tick(place.folder, place.config)
    found = audited(place, "broker.refused")
    assert {who for who, _ in found} == {"watch-1"}
    assert {said["reason"] for _, said in found} == {"denied"}
    counts = {said["topic"]: said["count"] for _, said in found}
    assert counts["flwr/v1/watch-2/evt"] == 2
    assert forged[:100] in counts
    assert len(counts) <= 3
    for number in range(30):
        peer.say(f"flwr/v1/watch-{number + 2}/evt")
    log.tick(place.folder, place.config)
    more = audited(place, "broker.refused")[len(found) :]
    assert sum(said["count"] for _, said in more) == 30
    assert len(more) == 6  # five topics, and the others


def test_subscriptions_to_others_topics_are_audited_and_hear_nothing(place):
    peers = {name: place.connect(place.enrol(name), name) for name in ("watch-1", "watch-2")}
    forged = "watch-1 1 x"
    others = ("flwr/v1/watch-1/cmd", "flwr/v1/+/evt", "#", "$SYS/#", f"x/{forged}")
    peers["watch-2"].client.subscribe([(each, 1) for each in others])
    for name, peer in peers.items():
        peer.client.subscribe([(f"flwr/v1/{name}/{kind}", 1) for kind in ("cmd", "obj/data")])
    server = place.server()
    server.client.subscribe([("flwr/v1/+/evt", 1)])
    assert peers["watch-1"].say("flwr/v1/watch-1/evt") == "Success"
    assert server.say("flwr/v1/watch-2/cmd") == "Success"
    assert wait(lambda: peers["watch-2"].heard)
    assert set(peers["watch-2"].heard) == {("flwr/v1/watch-2/cmd", b"x")}
    log.tick(place.folder, place.config)
    found = audited(place, "broker.refused")
    assert {(who, said["reason"]) for who, said in found} == {("watch-2", "foreign-subscription")}
    assert {said["topic"] for _, said in found} == set(others)


def test_what_is_not_denied_is_not_logged_where_it_is_not_to_be(place):
    quiet = place.config.broker.model_copy(update={"audit_denied": False})
    place.config = place.config.model_copy(update={"broker": quiet})
    place.stop()
    place.start()
    peer = place.connect(place.enrol("watch-1"), "watch-1")
    before = len(place.log())
    for _ in range(20):
        peer.say("flwr/v1/watch-1/evt")
    assert len(place.log()) == before


def test_topics_of_earlier_ticks_count_towards_the_few_that_are_named():
    counts = Counter({("watch-1", "denied", f"t/{number}"): 1 for number in range(5)})
    log._add(counts, Counter({("watch-1", "denied", "t/0"): 2, ("watch-1", "denied", "t/9"): 3}))
    log._add(counts, Counter({("watch-2", "denied", "t/9"): 1}))
    assert counts["watch-1", "denied", "t/0"] == 3
    assert counts["watch-1", "denied", "(other topics)"] == 3
    assert counts["watch-2", "denied", "t/9"] == 1
    assert len(counts) == 7
