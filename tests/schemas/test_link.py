"""What a link does, on Mosquitto and in memory alike."""

import contextlib
import socket
import threading
import time

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from schemas.link import LinkDown, Message, PahoLink, TlsFiles
from tests.certificates import certificates
from tests.mosquitto import Mosquitto, free_port
from tests.schemas.carriers import MemoryStage, MosquittoStage, subscribed

STATE = "flwr/v1/dev-1/state"
CMD = "flwr/v1/dev-1/cmd"


@pytest.fixture(params=["memory", "mosquitto"])
def stage(request, tmp_path):
    if request.param == "memory":
        yield MemoryStage()
        return
    broker = Mosquitto(tmp_path)
    broker.start()
    stage = MosquittoStage(broker)
    yield stage
    stage.close()
    assert "link" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def both(stage):
    """A server that listens to all states and events, and a device that listens to commands."""
    server, device = (
        stage.link("server"),
        stage.link("dev-1", will=Message(STATE, b"off", "", True)),
    )
    server.link.subscribe("flwr/v1/+/state")
    server.link.subscribe("flwr/v1/+/evt")
    device.link.subscribe(CMD)
    for ears in (server, device):
        ears.link.connect()
    stage.until(lambda: server.link.connected and device.link.connected)
    stage.until(lambda: server.connections and device.connections)
    subscribed(stage, server, device)
    return server, device


def test_a_message_arrives_as_it_was_sent(stage, both):
    server, device = both
    blob = bytes(range(256)) * 2048
    server.link.publish(CMD, blob, content_type="application/octet-stream", expiry=60)
    stage.until(lambda: device.messages)
    (message,) = device.messages
    assert message.payload == blob
    assert (message.topic, message.content_type, message.retain) == (
        CMD,
        "application/octet-stream",
        False,
    )
    assert 58 <= message.expiry <= 60


def test_order_is_kept_and_nothing_comes_twice(stage, both):
    server, device = both
    for number in range(300):
        server.link.publish(CMD, b"%d" % number, qos=number % 2)
    stage.until(lambda: len(device.messages) >= 300)
    stage.quiet()
    came = [int(payload) for payload in device.payloads]
    assert sorted(came) == list(range(300))
    assert [number for number in came if number % 2] == list(range(1, 300, 2))


def test_only_what_was_subscribed_arrives(stage, both):
    server, device = both
    server.link.publish("flwr/v1/dev-2/cmd", b"not for dev-1")
    device.link.publish("flwr/v1/dev-1/evt", b"event")
    stage.until(lambda: server.messages)
    stage.quiet()
    assert server.payloads == [b"event"]
    assert not device.messages


def test_a_retained_state_meets_who_comes_later(stage, both):
    _, device = both
    device.link.publish(STATE, b"on", retain=True)
    stage.quiet()
    late = stage.link("late")
    late.link.connect()
    stage.until(lambda: late.link.connected)
    late.link.subscribe(STATE)
    stage.until(lambda: late.messages)
    assert late.messages[0].payload == b"on"
    assert late.messages[0].retain


def test_the_will_is_published_where_the_device_vanishes(stage, both):
    server, device = both
    stage.vanish(device)
    stage.until(lambda: b"off" in server.payloads)
    stage.until(lambda: device.connections == 2)
    assert len(device.losses) == 1


def test_no_will_after_a_goodbye(stage, both):
    server, device = both
    device.link.publish(STATE, b"bye", retain=True)
    device.link.close()
    stage.until(lambda: server.messages)
    stage.quiet()
    assert server.payloads == [b"bye"]
    assert not device.link.connected
    assert not device.losses
    with pytest.raises(LinkDown):
        device.link.publish(STATE, b"after")
    with pytest.raises(LinkDown):
        device.link.connect()


def test_the_broker_keeps_no_session(stage, both):
    """Mosquitto 2.0.11 reads freed memory where one is away, it reloads, and the one comes back."""
    server, device = both
    device.link.close()
    stage.quiet()
    server.link.publish(CMD, b"gone")
    again = stage.link("dev-1")
    again.link.connect()
    stage.until(lambda: again.connections)
    stage.quiet()
    assert not again.messages


def test_links_come_back_after_a_crash_of_the_broker(stage, both):
    server, device = both
    stage.crash()
    stage.until(lambda: server.losses and device.losses)
    assert not server.link.connected
    with pytest.raises(LinkDown):
        server.link.publish(CMD, b"while it is down")
    stage.quiet()
    stage.revive()
    stage.until(lambda: server.connections == 2 and device.connections == 2)
    assert (len(server.losses), len(device.losses)) == (1, 1)
    subscribed(stage, device)
    server.link.publish(CMD, b"after")
    stage.until(lambda: device.messages)
    assert device.payloads == [b"after"], "filters are subscribed again"


def test_what_was_taken_arrives_although_the_link_breaks(stage, both):
    server, device = both
    for number in range(40):
        stage.until(lambda number=number: published(device, b"%d" % number))
        if number % 5 == 0:
            stage.vanish(device)
    stage.until(lambda: len(set(server.payloads) - {b"off"}) == 40)


def published(ears, payload):
    try:
        ears.link.publish("flwr/v1/dev-1/evt", payload)
    except LinkDown:
        return False
    return True


def test_connect_begins_before_there_is_a_broker(stage):
    stage.crash()
    link = stage.link("early")
    link.link.subscribe(CMD)
    link.link.connect()
    assert not link.link.wait_connected(0.2)
    stage.revive()
    stage.until(lambda: link.connections)
    link.link.publish(CMD, b"to myself")
    stage.until(lambda: link.messages)
    assert not link.losses, "what never was is not lost"


def test_callbacks_may_publish_and_what_they_raise_is_survived(stage, both, caplog):
    server, device = both

    def answer(message):
        device.link.publish("flwr/v1/dev-1/evt", b"re " + message.payload)
        raise RuntimeError("of the owner")

    device.link.on_message = answer
    server.link.publish(CMD, b"1")
    server.link.publish(CMD, b"2")
    stage.until(lambda: len(server.messages) == 2)
    assert server.payloads == [b"re 1", b"re 2"]
    assert "a callback of the link raised" in caplog.text


def test_callbacks_come_on_one_thread(stage, both):
    server, device = both
    threads = set()
    device.link.on_message = lambda _: threads.add(threading.get_ident())
    device.link.on_lost = lambda _: threads.add(threading.get_ident())
    device.link.on_connected = lambda: threads.add(threading.get_ident())
    server.link.publish(CMD, b"1")
    stage.until(lambda: threads)
    stage.vanish(device)
    stage.until(lambda: device.link.connected)
    stage.quiet()
    assert len(threads) == 1


def test_expired_messages_do_not_arrive(tmp_path):
    """On Mosquitto, whose clock is the wall's; the twin's is tested beside it."""
    broker = Mosquitto(tmp_path)
    broker.start()
    stage = MosquittoStage(broker)
    try:
        device, server = stage.link("dev-1"), stage.link("server")
        device.link.subscribe(CMD)
        device.link.connect()
        server.link.connect()
        stage.until(lambda: device.connections and server.connections)
        server.link.publish(f"{CMD}/1", b"short", retain=True, expiry=1)
        server.link.publish(f"{CMD}/2", b"long", retain=True, expiry=100)
        time.sleep(2.2)
        device.link.subscribe(f"{CMD}/+")
        stage.until(lambda: device.messages)
        stage.quiet()
        assert device.payloads == [b"long"]
        assert 90 < device.messages[0].expiry < 99
    finally:
        stage.close()


def test_a_refused_password_is_logged_and_tried_again(tmp_path, caplog):
    broker = Mosquitto(tmp_path, "allow_anonymous false\n")
    broker.start()
    stage = MosquittoStage(broker)
    try:
        link = stage.link("dev-1", username="dev-1", password="wrong")
        link.link.connect()
        stage.until(lambda: caplog.text.count("Not authorized") >= 2)
        assert not link.link.connected
        assert not link.losses
    finally:
        stage.close()


def test_much_is_taken_only_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("schemas.link.MAX_WAITING", 1 << 20)
    broker = Mosquitto(tmp_path)
    broker.start()
    stage = MosquittoStage(broker)
    try:
        link = stage.link("dev-1")
        link.link.connect()
        stage.until(lambda: link.connections)
        blocked, go = threading.Event(), threading.Event()
        link.link.on_message = lambda _: (blocked.set(), go.wait(30))
        link.link.subscribe(CMD)
        link.link.publish(CMD, b"block the thread")
        assert blocked.wait(30)
        for _ in range(3):
            link.link.publish(STATE, bytes(1 << 18))
        with pytest.raises(LinkDown, match="waiting to be sent"):
            link.link.publish(STATE, bytes((1 << 18) + 1))
        go.set()
        stage.until(lambda: link.link._waiting == 0)
        link.link.publish(STATE, b"room again")
    finally:
        stage.close()


def test_a_closed_link_that_never_connected_ends_at_once():
    link = PahoLink("127.0.0.1", free_port(), "nobody", backoff=(30, 60))
    link.connect()
    began = time.monotonic()
    link.close()
    assert time.monotonic() - began < 15


def test_tls_with_client_certificates(tmp_path):
    files = certificates(tmp_path)
    lines = (
        f"cafile {files['ca']}\ncertfile {files['certificate']}\nkeyfile {files['key']}\n"
        "require_certificate true\n"
    )
    broker = Mosquitto(tmp_path, lines)
    broker.start()
    stage = MosquittoStage(broker)
    try:
        stranger = stage.link("stranger", tls=TlsFiles(files["ca"]))
        stranger.link.connect()
        device = stage.link("dev-1", tls=TlsFiles(**files))
        device.link.subscribe(CMD)
        device.link.connect()
        stage.until(lambda: device.connections)
        blob = bytes(range(256)) * 2048
        device.link.publish(CMD, blob)
        stage.until(lambda: device.messages)
        assert device.payloads == [blob]
        assert not stranger.connections
    finally:
        stage.close()


def serve(answer):
    """A server on loopback that hands each connection to a function; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        with listener, contextlib.suppress(OSError):
            answer(listener.accept()[0])

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


def test_who_is_thrown_out_by_its_own_id_says_so(caplog):
    """As brokers do that give a reason; Mosquitto 2.0.11 gives none."""

    def thrown_out(connection):
        connection.recv(1024)
        connection.sendall(bytes.fromhex("2003000000") + bytes.fromhex("e0028e00"))
        connection.recv(1024)

    lost = threading.Event()
    reasons = []
    link = PahoLink("127.0.0.1", serve(thrown_out), "same", backoff=(30, 60))
    link.on_lost = lambda reason: (reasons.append(reason), lost.set())
    link.connect()
    assert lost.wait(30)
    link.close()
    assert reasons == ["taken over by another client of this id"]
    assert "taken over by another client of this id" in caplog.text


def test_each_attempt_that_fails_says_why():
    reasons, twice = [], threading.Event()
    link = PahoLink("127.0.0.1", free_port(), "nobody", backoff=(0.01, 0.02))
    link.on_failed = lambda reason: (reasons.append(reason), len(reasons) > 1 and twice.set())
    link.on_lost = pytest.fail
    link.connect()
    assert twice.wait(30)
    link.close()
    assert all("Connection refused" in reason for reason in reasons)


def test_a_password_is_asked_for_before_each_attempt():
    """The broker here hangs up on every word; what it is sent is looked at."""
    heard, both = [], threading.Event()

    def deaf(connection):
        heard.append(connection.recv(1024))
        connection.close()
        if len(heard) == 2:
            both.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run():
            with contextlib.suppress(OSError):
                while True:
                    deaf(listener.accept()[0])

        threading.Thread(target=run, daemon=True).start()
        passwords = iter(["word-1", "word-2"])
        link = PahoLink(
            *listener.getsockname(),
            "dev-1",
            username="me",
            password=lambda: next(passwords, "word-3"),
            backoff=(0.01, 0.02),
        )
        link.connect()
        assert both.wait(30)
        link.close()
    assert [heard[0][-6:], heard[1][-6:]] == [b"word-1", b"word-2"]


def test_a_close_without_a_word_names_what_it_may_be(tmp_path):
    broker = Mosquitto(tmp_path)
    broker.start()
    stage = MosquittoStage(broker)
    try:
        one = stage.link("same")
        one.link.connect()
        stage.until(lambda: one.connections)
        other = stage.link("same")
        other.link.connect()
        stage.until(lambda: one.losses)
        other.link.close()
        assert "another client of this id took over" in one.losses[0]
    finally:
        stage.close()


def test_a_handshake_that_is_never_answered_ends_with_the_link(tmp_path):
    files = certificates(tmp_path)
    asked, end = threading.Event(), threading.Event()

    def silent(connection):
        connection.recv(1)
        asked.set()
        end.wait(60)

    link = PahoLink("127.0.0.1", serve(silent), "dev-1", tls=TlsFiles(files["ca"]))
    link.connect()
    assert asked.wait(30)
    began = time.monotonic()
    link.close()
    took = time.monotonic() - began
    thread = link._thread
    thread.join(10)
    end.set()
    assert took < 10
    assert not thread.is_alive()


@pytest.mark.parametrize("broken", ["ca", "certificate", "key"])
@pytest.mark.parametrize("how", ["no PEM", "missing"])
def test_errors_of_tls_name_the_file(tmp_path, broken, how):
    files = certificates(tmp_path)
    files[broken] = tmp_path / "broken.pem"
    if how == "no PEM":
        files[broken].write_text("no PEM")
    with pytest.raises(OSError, match=r"broken\.pem"):
        PahoLink("127.0.0.1", 1, "dev-1", tls=TlsFiles(**files))


def test_a_key_of_another_certificate_names_both(tmp_path):
    files = certificates(tmp_path)
    (tmp_path / "other").mkdir()
    files["key"] = certificates(tmp_path / "other")["key"]
    with pytest.raises(OSError, match=f"{files['certificate']} with the key {files['key']}"):
        PahoLink("127.0.0.1", 1, "dev-1", tls=TlsFiles(**files))


def test_an_encrypted_key_asks_nobody(tmp_path):
    files = certificates(tmp_path)
    key = load_pem_private_key(files["key"].read_bytes(), None)
    locked = BestAvailableEncryption(b"x")
    files["key"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    with pytest.raises(OSError, match="not encrypted"):
        PahoLink("127.0.0.1", 1, "dev-1", tls=TlsFiles(**files))


def behind_tls(files):
    return (
        f"cafile {files['ca']}\ncertfile {files['certificate']}\nkeyfile {files['key']}\n"
        "require_certificate true\n"
    )


def test_certificates_that_were_replaced_are_taken_up_by_themselves(tmp_path):
    files = certificates(tmp_path)
    broker = Mosquitto(tmp_path, behind_tls(files))
    broker.start()
    stage = MosquittoStage(broker)
    try:
        device = stage.link("dev-1", tls=TlsFiles(**files))
        device.link.connect()
        stage.until(lambda: device.connections)
        stage.crash()
        certificates(tmp_path)  # the authority is another, too
        stage.revive()
        stage.until(lambda: device.connections == 2)
    finally:
        stage.close()


def test_a_half_written_set_of_tls_files_does_not_keep_a_link_down(tmp_path, caplog):
    files = certificates(tmp_path)
    broker = Mosquitto(tmp_path, behind_tls(files))
    broker.start()
    stage = MosquittoStage(broker)
    try:
        device = stage.link("dev-1", tls=TlsFiles(**files))
        device.link.connect()
        stage.until(lambda: device.connections)
        (tmp_path / "other").mkdir()
        files["key"].write_bytes(certificates(tmp_path / "other")["key"].read_bytes())
        stage.vanish(device)
        stage.until(lambda: device.connections == 2)
        assert "what they held before is used" in caplog.text
    finally:
        stage.close()


def test_a_certificate_that_has_expired_is_said_to_have(tmp_path):
    (tmp_path / "old").mkdir()
    files, old = certificates(tmp_path), certificates(tmp_path / "old", days=-1)
    both = tmp_path / "both.pem"  # else the broker would not know who it is
    both.write_bytes(files["ca"].read_bytes() + old["ca"].read_bytes())
    broker = Mosquitto(tmp_path, behind_tls(files | {"ca": both}))
    broker.start()
    stage = MosquittoStage(broker)
    try:
        own = old | {"ca": files["ca"]}
        device = stage.link("dev-1", tls=TlsFiles(**own))
        device.link.connect()
        stage.until(lambda: device.failures)
        assert "the certificate has expired, 20" in device.failures[0]
        assert "flwr-fleet device rotate" in device.failures[0]
    finally:
        stage.close()


@pytest.mark.parametrize("days", [30, -1])
def test_a_broker_of_another_authority_says_what_to_ask_for(tmp_path, days):
    """As one whose authority was rolled over while the device was off."""
    (tmp_path / "old").mkdir()
    files, old = certificates(tmp_path), certificates(tmp_path / "old", days=days)
    broker = Mosquitto(tmp_path, behind_tls(files))
    broker.start()
    stage = MosquittoStage(broker)
    try:
        device = stage.link("dev-1", tls=TlsFiles(**old))
        device.link.connect()
        stage.until(lambda: device.failures)
        said = device.failures[0]
        assert "rolled over while this device was off" in said
        assert "flwr-fleet device rotate" in said
        assert ("the certificate has expired" in said) == (days < 0)
        assert "_ssl.c" not in said
    finally:
        stage.close()


class Waits(threading.Event):
    """Waits for nothing, and is set after the third time."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def wait(self, timeout=None):
        self.asked.append(timeout)
        if len(self.asked) == 3:
            self.set()
        return self.is_set()


def test_a_dial_that_takes_long_is_no_good_connection(monkeypatch):
    """As where the resolver does not answer: the pauses grow all the same."""

    def unanswered(*_, **__):
        time.sleep(0.05)
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr("schemas.link._STABLE", 0.01)
    monkeypatch.setattr("schemas.link.random.uniform", lambda *_: 1.0)
    link = PahoLink("broker.invalid", 1883, "dev-1", backoff=(0.5, 60))
    link._client.connect, link._closing = unanswered, Waits()
    link._run()
    assert link._closing.asked == [0.5, 1, 2]
