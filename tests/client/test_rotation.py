"""When the daemon rotates, on clocks that are right and on others."""

import json

import pytest

from client import rotation
from client.identity import FILES, Identity
from client.rotation import Rotation
from schemas.enrolment import EnrolReply

HOUR, DAY = 3600.0, 86_400.0


class Site:
    """A server with the right time, and a device whose clock is so much ahead."""

    def __init__(self, root, ahead):
        self.identity, self.now, self.ahead, self.rotations = Identity(root), 1e9, ahead, 0
        self.identity.current.mkdir(parents=True)
        for name in FILES:
            (self.identity.current / name).touch()
        self._note(self.now)

    def clock(self):
        return self.now + self.ahead

    def rotate(self, _):
        self.rotations += 1
        renew_at = self.now + 60 * DAY
        self._note(renew_at)
        return EnrolReply.model_construct(renew_at=renew_at)

    def _note(self, renew_at):
        facts = {"server": "s", "device": "d", "renew_at": renew_at}
        (self.identity.current / "identity.json").write_text(json.dumps(facts))


@pytest.fixture
def site(tmp_path, monkeypatch):
    def make(ahead):
        made = Site(tmp_path, ahead)
        monkeypatch.setattr(rotation, "rotate", made.rotate)
        return made

    return make


def test_after_a_rotation_the_next_look_is_an_hour_away(site):
    there = site(ahead=0)
    told = []
    looks = Rotation(there.identity, lambda: told.append(True), there.clock)
    assert looks.look() == HOUR
    assert looks.look() == HOUR
    assert (there.rotations, len(told)) == (1, 1)


def test_a_clock_far_ahead_is_said_once_and_rotates_more_and_more_rarely(site, caplog):
    there = site(ahead=75 * DAY)
    looks = Rotation(there.identity, lambda: None, there.clock)
    waits = [looks.look() for _ in range(7)]
    assert waits == [HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 16 * HOUR, DAY, DAY]
    assert there.rotations == 7
    assert caplog.text.count("this device's clock is wrong") == 1
    there.ahead = 0.0
    assert looks.look() == HOUR  # set right: it is not time yet
    assert there.rotations == 7
