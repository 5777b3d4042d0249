"""A device's side of enrolment and rotation (``client``), against a real server."""

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from client.enrolment import EnrolmentError, authority, enrol, rotate
from client.identity import Identity, IdentityError
from client.rotation import Rotation
from schemas.enrolment import ClaimText, enrol_url, parse_url
from server.fleet import claims, devices
from server.fleet.registry import Device, Key
from tests.server.fleet.site import Site
from tests.server.fleet.test_enrolment import do, rows, states


@pytest.fixture
def database(migrated, tmp_path):
    """What databases do with it is ``test_enrolment``'s; here one will do."""
    path = tmp_path / "registry.sqlite"
    path.write_bytes(migrated.read_bytes())
    return path


@pytest.fixture
def site(keeper, registrar) -> Iterator[Site]:
    with Site(keeper) as site:
        yield site


@pytest.fixture
def identity(tmp_path):
    return Identity(tmp_path / "device")


def text(keeper, device="watch-1", **terms):
    (made,) = do(
        keeper, claims.create, claims.Terms(1, **terms), keeper.authority.serving.id, [device]
    )
    return made


def test_a_claim_is_read_from_a_qr_code(keeper):
    claim = text(keeper)
    server, back = parse_url(enrol_url("fleet.example:8443", claim))
    assert (server, ClaimText.parse(back)) == ("fleet.example:8443", claim)
    for bad in ("http://a/enrol#x", "https://a/enrol", "https://a/other#x", "javascript:1"):
        with pytest.raises(ValueError, match="expected https"):
            parse_url(bad)
    with pytest.raises(ValueError, match=r"ID\.SECRET\.CA") as caught:
        ClaimText.parse(str(claim)[:-3])
    assert claim.secret not in str(caught.value)


def test_a_device_joins_and_its_key_stays_its_own(site, identity):
    said: list[str] = []
    claim = text(site.keeper)
    reply = enrol(identity, site.name, claim, "watch-1", said.append)
    assert identity.exists()
    leaf = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    assert leaf.public_key() == identity.private_key().public_key()
    assert identity.facts()["renew_at"] == reply.renew_at
    assert identity.key.stat().st_mode & 0o77 == 0
    assert said[0].replace(" ", "") == f"fingerprint{reply.csr_sha256}"
    assert not (identity.root / "pending").exists()
    with pytest.raises(EnrolmentError, match="was used already; this device enrolled as watch-1"):
        enrol(identity, site.name, claim, "watch-1", said.append)
    assert not (identity.root / "pending").exists()
    assert identity.certificate.read_bytes() == leaf.public_bytes(Encoding.PEM)


def test_who_is_in_between_gets_nothing(site, identity, monkeypatch):
    claim = text(site.keeper)
    other = claim._replace(ca="00" * 32)
    before = rows(site.keeper.registry)
    with pytest.raises(EnrolmentError, match="Nothing was sent to it"):
        enrol(identity, site.name, other, "watch-1", print)
    # It hands out the right authority, but has another's certificate.
    monkeypatch.setattr("client.enrolment.authority", lambda *_: _other_ca(site))
    with pytest.raises(EnrolmentError, match=r"its certificate is not good.*rolled over while"):
        enrol(identity, site.name, claim, "watch-1", print)
    assert rows(site.keeper.registry) == before


def _other_ca(site):
    from schemas.fleet import FleetFolder, Lifetimes
    from server.fleet.authority import Authority

    folder = FleetFolder(site.keeper.folder.root / "other")
    folder.root.mkdir()
    return Authority.create(folder, Lifetimes(), b"x" * 9, "other").chain


def test_an_answer_that_was_lost_is_asked_for_again(site, identity, monkeypatch):
    claim = text(site.keeper)
    with monkeypatch.context() as patch:
        patch.setattr(Identity, "take", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            enrol(identity, site.name, claim, "watch-1", print)
    assert enrol(identity, site.name, claim, "watch-1", print).state == "accepted"
    old = identity.certificate.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Identity, "take", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            rotate(identity)
    assert identity.certificate.read_bytes() == old
    rotate(identity)
    assert identity.certificate.read_bytes() != old
    assert states(site.keeper.registry)[1].count("accepted") == 1


@pytest.mark.parametrize("step", range(1, 9))
def test_a_power_cut_at_any_step_leaves_the_old_identity_or_the_new(
    site, identity, monkeypatch, step
):
    enrol(identity, site.name, text(site.keeper), "watch-1", print)
    left = [step]

    def dying(call):
        def die(*arguments, **named):
            if threading.current_thread() is threading.main_thread():  # not the server's
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
            return call(*arguments, **named)

        return die

    with monkeypatch.context() as patch:
        for module, name in ((os, "fsync"), (os, "replace"), (os, "symlink")):
            patch.setattr(module, name, dying(getattr(module, name)))
        with contextlib.suppress(KeyboardInterrupt):
            rotate(identity)
    again = Identity(identity.root)
    leaf = x509.load_pem_x509_certificate(again.certificate.read_bytes())
    assert leaf.public_key() == again.private_key().public_key()
    assert rotate(again).state == "accepted"
    leaf = x509.load_pem_x509_certificate(again.certificate.read_bytes())
    assert leaf.public_key() == again.private_key().public_key()


def test_a_device_waits_for_its_operator(site, identity):
    claim = text(site.keeper, approval="operator")
    said: list[str] = []
    with pytest.raises(EnrolmentError, match="no operator approved it yet"):
        enrol(identity, site.name, claim, "watch-1", said.append, wait=0)
    assert "flwr-fleet device approve watch-1" in said[1]
    do(site.keeper, devices.approve, site.keeper.authority, ["watch-1"])
    assert enrol(identity, site.name, claim, "watch-1", said.append).state == "accepted"


def test_the_daemon_rotates_by_itself(site, identity, clock):
    enrol(identity, site.name, text(site.keeper), "watch-1", print)
    told = threading.Event()
    rotation = Rotation(identity, told.set, clock)
    assert rotation.look() == 3600  # it is not time yet
    clock.now = identity.facts()["renew_at"]
    rotation.start()
    assert told.wait(20)
    rotation.stop()
    assert identity.facts()["renew_at"] > clock.now
    with site.keeper.registry.read() as db:
        assert {key.state for key in db.query(Key)} == {"accepted", "retired"}
        assert db.get_one(Device, "watch-1").state == "accepted"


def test_a_rotation_that_fails_is_tried_again_more_rarely(site, identity, clock, caplog):
    enrol(identity, site.name, text(site.keeper), "watch-1", print)
    clock.now = identity.facts()["renew_at"]
    do(site.keeper, devices.revoke, ["watch-1"], "")
    rotation = Rotation(identity, lambda: None, clock, (8.0, 100.0))
    assert 50 <= rotation.look() <= 150
    assert "only an operator can help" in caplog.text
    (identity.current / "identity.json").write_text("{")
    waits = [Rotation(identity, lambda: None, clock, (8.0, 100.0)).look() for _ in range(3)]
    assert all(4 <= wait <= 12 for wait in waits)


def test_a_certificate_that_is_not_ours_is_not_taken(site, identity, registrar):
    from schemas.enrolment import EnrolRequest
    from tests.server.fleet.requests import claim as sent
    from tests.server.fleet.requests import csr

    pending = identity.pending("watch-1")
    asked = EnrolRequest(claim=sent(site.keeper), csr=csr("watch-1"))
    reply = registrar.enrol(asked, "10.0.0.1")
    with pytest.raises(IdentityError, match="another key or name"):
        identity.take(site.name, pending, reply)
    assert not identity.exists()


def test_a_roll_over_reaches_devices_before_the_server_changes(site, identity, clock):
    keeper = site.keeper
    enrol(identity, site.name, text(keeper), "watch-1", print)
    first = keeper.authority.newest
    keeper.authority.roll_over("x")
    assert keeper.authority.serving.id == first.id
    assert len(keeper.authority.trusted) == 2
    rotate(identity)
    assert identity.ca.read_text().count("BEGIN CERTIFICATE") == 2
    leaf = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    assert leaf.issuer == keeper.authority.newest.certificate.subject
    keeper.publish()
    assert keeper.folder.crl.read_text().count("BEGIN X509 CRL") == 2
    overlap = keeper.config.lifetimes.overlap_days * 86_400
    clock.now += overlap / 2
    assert keeper.renew_services()
    assert keeper.authority.serving.id != first.id
    clock.now += overlap / 2
    assert [ca.id for ca in keeper.authority.trusted] == [keeper.authority.newest.id]


def test_the_authority_is_found_among_many(site, keeper):
    assert authority(site.name, keeper.authority.serving.id) == keeper.authority.chain
