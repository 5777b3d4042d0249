"""The fleet's authorities in its folder."""

import shutil
import threading

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from schemas.fleet import FleetFolder
from server.fleet import authority as module
from server.fleet import secret
from server.fleet.authority import Authority, key_id
from server.fleet.errors import Refusal


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "fleet")
    return FleetFolder(tmp_path / "fleet")


def opened(folder):
    config = folder.config()
    return Authority(folder, config.lifetimes, secret.load(folder, config))


def matching(folder, number):
    """Whether a CA's key is that of its certificate."""
    key = load_pem_private_key(
        (folder.ca / f"{number}.key").read_bytes(), secret.load(folder, folder.config())
    )
    known = {ca.number: ca for ca in opened(folder).cas}
    return key_id(key.public_key()) == key_id(known[number].certificate.public_key())


def test_of_two_roll_overs_at_once_one_is_refused(folder):
    both, came = threading.Barrier(2), []

    def roll():
        authority = opened(folder)
        both.wait(20)
        try:
            authority.roll_over("x")
        except Refusal as error:
            came.append(str(error))
        else:
            came.append(authority.newest.number)

    threads = [threading.Thread(target=roll) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(came, key=str) == [
        2,
        "a roll-over is under way; the old authority is still trusted",
    ]
    assert [ca.number for ca in opened(folder).cas] == [1, 2]
    assert matching(folder, 2)


def test_a_key_is_never_written_over(folder, monkeypatch):
    key = (folder.ca / "1.key").read_bytes()
    monkeypatch.setattr(module, "_next", lambda _: 1)  # as seen before another made it
    with pytest.raises(FileExistsError):
        opened(folder).roll_over("x")
    assert (folder.ca / "1.key").read_bytes() == key
    assert {path.name for path in folder.ca.iterdir()} == {"1.key", "1.pem"}


def test_a_key_without_a_certificate_is_passed_over(folder):
    (folder.ca / "2.key").write_bytes(b"of a roll-over that was killed")
    opened(folder).roll_over("x")
    assert [ca.number for ca in opened(folder).cas] == [1, 3]
    assert matching(folder, 3)
