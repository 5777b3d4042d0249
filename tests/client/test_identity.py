"""Whose an identity's files are; what they hold is tested with a server (test_joining.py)."""

import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from client.identity import FILES, Identity
from schemas.enrolment import EnrolReply
from tests.certificates import certificates

SERVICE = (4321, 4322)  # a user's and a group's number


def signed(pending, folder):
    """What a server would answer."""
    files = certificates(folder)
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(files["key"].read_bytes(), None)
    authority = x509.load_pem_x509_certificate(files["ca"].read_bytes())
    request = x509.load_pem_x509_csr(pending.csr.encode())
    leaf = (
        x509.CertificateBuilder(authority.subject, request.subject, request.public_key(), 2)
        .not_valid_before(authority.not_valid_before_utc)
        .not_valid_after(authority.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    return EnrolReply.model_construct(
        device="watch-7",
        certificate=leaf.public_bytes(Encoding.PEM).decode(),
        ca=files["ca"].read_text(),
        renew_at=1e9,
    )


def enrolled(state, folder):
    identity = Identity(state / "identity")
    pending = identity.pending("watch-7")
    assert isinstance(pending.key, ec.EllipticCurvePrivateKey)
    before = owners(identity.root)
    identity.take("fleet.example", pending, signed(pending, folder))
    assert identity.exists()
    return before | owners(identity.root)


def owners(root):
    """Of all there; the link's does not matter."""
    paths = [root, *(path for path in root.rglob("*") if not path.is_symlink())]
    return {(path.stat().st_uid, path.stat().st_gid) for path in paths}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("broken", [False, True])
def test_what_root_makes_in_a_services_state_is_the_services(tmp_path, broken):
    """Of a state folder that is there systemd does not change what is in it."""
    state = tmp_path / "state"
    state.mkdir()
    if broken:
        (state / "identity").mkdir()  # root's, as an earlier version left it
    os.chown(state, *SERVICE)
    first = enrolled(state, tmp_path)
    assert enrolled(state, tmp_path) == {SERVICE}
    assert first == {SERVICE} or broken
    assert {path.name for path in (state / "identity").iterdir()} == {"2", "current"}
    modes = {path.stat().st_mode & 0o777 for path in (state / "identity" / "2").iterdir()}
    assert modes == {0o600}
    assert len(FILES) == len(list((state / "identity" / "2").iterdir()))


def test_what_a_user_makes_is_the_users(tmp_path):
    assert enrolled(tmp_path, tmp_path) == {(os.geteuid(), os.getegid())}
