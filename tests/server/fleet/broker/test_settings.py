"""What Mosquitto makes of its configuration."""

from pathlib import Path


def listening(process):
    """Addresses and ports on which a process listens, as the kernel's tables have them."""
    links = (str(path.readlink()) for path in Path(f"/proc/{process}/fd").iterdir())
    held = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in held:
                address, port = local.split(":")
                found.add((address, int(port, 16)))
    return found


def test_it_listens_where_it_is_told_and_nowhere_else(place):
    """An option of listeners that stands before them makes a further one, plain, on 1883."""
    place.connect(place.enrol("watch-1"), "watch-1")  # who is greeted, is so after all listen
    broker = place.config.broker
    everywhere, loopback = "00000000", "0100007F"
    assert listening(place.process.pid) == {
        (everywhere, broker.port),
        (loopback, broker.control),
    }


def test_it_logs_to_its_file_alone(place):
    """Nobody bounds standard error, and what is refused is said as often as it is asked for."""
    place.connect(place.enrol("watch-1"), "watch-1")
    assert "as watch-1 (" in (place.folder.broker / "mosquitto.log").read_text()
    assert "watch-1" not in (place.root / "broker.log").read_text()


def test_qos_2_and_topic_aliases_are_not_offered(place):
    peer = place.connect(place.enrol("watch-1"), "watch-1")
    ((_, _, said),) = peer.greeted
    assert said.MaximumQoS == 1
    assert getattr(said, "TopicAliasMaximum", 0) == 0
