"""Signatures over tasks: what was signed for one device, in one envelope, is good there only."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from schemas.signing import (
    SignatureError,
    new_key,
    public_hex,
    sign,
    sign_task,
    verify,
    verify_task,
)
from schemas.wire import Accepted, ObjectRef, Task, decode, encode, envelope, new_id

REF = ObjectRef(sha256="ab" * 32, bytes=10)


@pytest.fixture
def key():
    return new_key()


@pytest.fixture
def message():
    return envelope(Task(run="r", action="train", payload=REF), ttl=60)


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_a_signature_is_good_for_its_bytes_and_key(key):
    signature = sign(key, b"bytes")
    verify(public_hex(key), b"bytes", signature)
    assert sign(pem(key), b"bytes") == signature
    for data, public in ((b"other", public_hex(key)), (b"bytes", public_hex(new_key()))):
        with pytest.raises(SignatureError, match="not of the fleet's key"):
            verify(public, data, signature)


@pytest.mark.parametrize("signature", ["", "zz", "00" * 64, "00" * 63])
def test_what_is_no_signature_is_refused(key, signature):
    with pytest.raises(SignatureError, match="not of the fleet's key"):
        verify(public_hex(key), b"bytes", signature)


def test_no_signature_is_said(key):
    with pytest.raises(SignatureError, match="signed tasks only"):
        verify(public_hex(key), b"bytes", None)


@pytest.mark.parametrize("public", ["", "zz", "00"])
def test_a_wrong_public_key_is_said(key, public):
    with pytest.raises(SignatureError, match="64 hexadecimal digits"):
        verify(public, b"bytes", sign(key, b"bytes"))


def test_another_kind_of_key_is_refused():
    with pytest.raises(SignatureError, match="expected Ed25519"):
        sign(pem(generate_private_key(SECP256R1())), b"bytes")


def test_a_signed_task_survives_the_wire(key, message):
    signed = decode(encode(sign_task(key, "dev-1", message)))
    verify_task(public_hex(key), "dev-1", signed)
    assert signed.id == message.id
    assert message.body.signature is None


def test_a_task_replayed_elsewhere_is_refused(key, message):
    signed = sign_task(key, "dev-1", message)
    with pytest.raises(SignatureError, match="not for dev-2"):
        verify_task(public_hex(key), "dev-2", signed)
    with pytest.raises(SignatureError, match="signed for"):
        verify_task(public_hex(key), "dev-1", signed.model_copy(update={"id": new_id()}))


@pytest.mark.parametrize(
    "change", [{"run": "s"}, {"payload": ObjectRef(sha256="cd" * 32, bytes=10)}, {"bound": None}]
)
def test_a_changed_task_is_refused(key, message, change):
    signed = sign_task(key, "dev-1", message)
    body = signed.body.model_copy(update=change)
    with pytest.raises(SignatureError, match="not of the fleet's key"):
        verify_task(public_hex(key), "dev-1", signed.model_copy(update={"body": body}))


def test_only_tasks_are_signed(key):
    with pytest.raises(SignatureError, match="only tasks"):
        sign_task(key, "dev-1", envelope(Accepted(), ttl=5))
