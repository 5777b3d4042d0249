"""Signatures, checked in a process of its own."""

import sys

import pytest

from client import verifier
from schemas import signing, wire

KEY = signing.new_key()
PUBLIC = signing.public_hex(KEY)


@pytest.fixture
def envelope():
    task = wire.Task(run="r", action="train", payload=wire.ObjectRef(sha256="0" * 64, bytes=1))
    return wire.envelope(task, ttl=60.0)


def test_a_good_one(envelope):
    verifier.verify(PUBLIC, "pi-1", signing.sign_task(KEY, "pi-1", envelope))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e, "no signature"),
        (lambda e: signing.sign_task(signing.new_key(), "pi-1", e), "not of the fleet's key"),
        (lambda e: signing.sign_task(KEY, "pi-2", e), "pi-2"),
        (
            lambda e: signing.sign_task(KEY, "pi-1", e).model_copy(update={"id": "f" * 32}),
            "f" * 32,
        ),
    ],
)
def test_others(envelope, change, said):
    with pytest.raises(signing.SignatureError, match=said):
        verifier.verify(PUBLIC, "pi-1", change(envelope))


def test_one_that_cannot_be_checked_is_refused(envelope, monkeypatch):
    signed = signing.sign_task(KEY, "pi-1", envelope)
    monkeypatch.setattr(sys, "executable", "/nowhere")
    with pytest.raises(signing.SignatureError, match="cannot be checked"):
        verifier.verify(PUBLIC, "pi-1", signed)
