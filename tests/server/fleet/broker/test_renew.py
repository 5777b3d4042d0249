"""A link takes up a rotated certificate on a real broker, and loses nothing by it."""

import shutil

from sqlalchemy import update

from schemas.link import LinkDown
from server.fleet.broker.lists import follow
from server.fleet.registry import Certificate
from tests.server.fleet.broker.conftest import wait


def said(link, number):
    """Publish a number; whether the link took it: while it connects again it takes nothing."""
    try:
        link.publish("flwr/v1/watch-1/evt", str(number).encode())
    except LinkDown:
        return False
    return True


def test_a_renewed_link_comes_with_its_new_certificate(place):
    server = place.server()
    server.client.subscribe("flwr/v1/watch-1/evt", 1)
    own = place.enrol("watch-1")
    old = (own[0], *(shutil.copy(path, f"{path}.old") for path in own[1:]))
    link = place.link("watch-1", own)
    heard = []
    link.on_message = lambda message: heard.append(message.payload)
    link.subscribe("flwr/v1/watch-1/cmd")
    link.connect()
    try:
        assert link.wait_connected(10)
        for new, path in zip(place.forged("watch-1")[1:], own[1:], strict=True):
            shutil.copy(new, path)  # as rotation leaves them, of the same CA
        with place.keeper.registry.write("test") as tx:
            mine = update(Certificate).where(Certificate.device == "watch-1")
            tx.db.execute(mine.values(revoked=tx.now, reason="superseded"))
        place.keeper.publish()
        assert follow(place.folder, place.config)
        assert place.refused(old, "watch-1")

        taken = {str(number).encode() for number in range(20) if said(link, number)}
        link.renew()
        taken |= {str(number).encode() for number in range(20, 40) if said(link, number)}
        assert len(taken) >= 20
        assert wait(lambda: {payload for _, payload in server.heard} == taken)
        assert wait(lambda: place.log().count(" as watch-1 (") == 2)
        assert link.wait_connected(10)
        assert place.log().count(" as watch-1 (") == 2
        # Said until it is heard: the broker may greet before it has taken the subscription.
        assert wait(lambda: server.say("flwr/v1/watch-1/cmd", b"do") == "Success" and heard)
        assert set(heard) == {b"do"}
    finally:
        link.close()
