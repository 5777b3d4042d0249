"""Attacks on the enrolment server over HTTPS, on both databases.

Each fails with a clear answer, is audited, and changes nothing. What is tried at the broker is
``tests/server/fleet/broker``'s.
"""

import json
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from sqlalchemy import func, select

from schemas.enrolment import ENROL_PATH, ROTATE_PATH
from schemas.fleet import FleetFolder, Lifetimes
from server.fleet import claims, devices, https
from server.fleet.authority import Authority
from server.fleet.registry import Audit, Device, audit
from tests.server.fleet.requests import claim, csr, new_key, of_version, request, rotation
from tests.server.fleet.site import Site
from tests.server.fleet.test_enrolment import do, rows


@pytest.fixture
def site(keeper, registrar) -> Iterator[Site]:
    settings = keeper.config.enrolment.model_copy(update={"body_seconds": 0.5, "per_minute": 200})
    keeper.config = keeper.config.model_copy(update={"enrolment": settings})
    with Site(keeper) as site:
        yield site


def refused(site, status, error, path, body, **headers):
    """It gets this answer, is the newest row of the log, and nothing else changed."""
    before = rows(site.keeper.registry)
    got, answer = site.ask(path, body, **headers)
    assert (got, answer["error"]) == (status, error), answer
    assert answer["detail"].isprintable()
    assert rows(site.keeper.registry) == before
    with site.keeper.registry.read() as db:
        (row,) = audit.newest(db, 1)
        assert list(audit.faults(db)) == []
    assert (row.action, json.loads(row.detail)["error"]) == ("enrol.refused", error)
    assert row.actor == "address:127.0.0.1"
    return row


def test_claims_that_are_no_good(site, clock):
    keeper = site.keeper
    used = claim(keeper, "watch-1")
    assert site.ask(ENROL_PATH, request(used))[0] == 200
    row = refused(site, 403, "claim-used", ENROL_PATH, request(used))
    assert row.subject == "watch-1"
    refused(site, 403, "claim-other-name", ENROL_PATH, request(claim(keeper, "b"), "c"))
    refused(site, 403, "claim-unknown", ENROL_PATH, request(f"{used[:12]}.{'A' * 32}", "c"))
    gone, old = claim(keeper), claim(keeper)
    do(keeper, claims.revoke, [gone[:12]])
    refused(site, 403, "claim-revoked", ENROL_PATH, request(gone, "c"))
    clock.now += 3601
    refused(site, 403, "claim-expired", ENROL_PATH, request(old, "c"))


def test_revoked_devices_and_accepted_names(site):
    keeper, key, shared = site.keeper, new_key(), claim(site.keeper, uses=9)
    asked = request(shared, key=key)
    reply = site.ask(ENROL_PATH, asked)[1]
    refused(site, 409, "name-taken", ENROL_PATH, request(shared))  # a hijack
    do(keeper, devices.revoke, ["watch-1"], "lost")
    refused(site, 403, "device-revoked", ENROL_PATH, asked)  # the claim that lies on it
    refused(site, 403, "claim-revoked", ENROL_PATH, request(shared, "watch-2"))
    mine = rotation(reply["certificate"], key)
    refused(site, 403, "device-revoked", ROTATE_PATH, mine)
    refused(site, 409, "key-reused", ENROL_PATH, request(claim(keeper), "watch-2", key))


def test_requests_that_ask_for_more(site):
    token = claim(site.keeper)
    ca = x509.BasicConstraints(ca=True, path_length=None)
    other = x509.SubjectAlternativeName([x509.DNSName("server")])
    bad = {
        "csr-extensions": [csr("a", None, ca), csr("a", None, other)],
        "weak-key": [
            csr("a", rsa.generate_private_key(65537, 1024)),
            csr("a", ec.generate_private_key(ec.SECP192R1())),
        ],
        "csr-malformed": [
            csr("../../../etc/passwd"),
            csr("a'; DROP TABLE devices;--"),
            csr("a\n2026 operator:root device.approve evil"),
            csr("a\x1b]0;evil\x07"),
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
        ],
    }
    for error, texts in bad.items():
        for text in texts:
            body = request(token).model_copy(update={"csr": text})
            row = refused(site, 400, error, ENROL_PATH, body)
            assert row.subject.isprintable()
            assert row.detail.isprintable()
    assert site.ask(ENROL_PATH, request(token))[0] == 200  # the claim is as good as before


def test_requests_and_certificates_of_other_versions_are_malformed_and_count(site):
    keeper, key = site.keeper, new_key()
    strange = of_version(csr("a"), "CERTIFICATE REQUEST")
    body = request(claim(keeper)).model_copy(update={"csr": strange})
    names = x509.UnrecognizedExtension(
        x509.oid.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes.fromhex("3004a3023000")
    )
    for text in (strange, csr("a", None, names)):  # the second: an address of X.400
        refused(site, 400, "csr-malformed", ENROL_PATH, body.model_copy(update={"csr": text}))
    mine = site.ask(ENROL_PATH, request(claim(keeper), key=key))[1]["certificate"]
    asked = rotation(mine, key)
    refused(site, 400, "csr-malformed", ROTATE_PATH, asked.model_copy(update={"csr": strange}))
    shown = asked.model_copy(update={"certificate": of_version(mine, "CERTIFICATE")})
    refused(site, 400, "malformed", ROTATE_PATH, shown)


def test_certificates_that_are_no_identity(site, clock, tmp_path):
    keeper, key = site.keeper, new_key()
    mine = site.ask(ENROL_PATH, request(claim(keeper), key=key))[1]["certificate"]
    other = Authority.create(FleetFolder(tmp_path), Lifetimes(), b"x" * 9, "fleet", clock)
    forged = other.issue_device("watch-1", key.public_key()).pem
    refused(site, 403, "not-this-fleet", ROTATE_PATH, rotation(forged, key))
    refused(site, 403, "signature", ROTATE_PATH, rotation(mine, new_key()))
    refused(site, 403, "other-name", ROTATE_PATH, rotation(mine, key, "watch-2"))
    clock.now -= 700
    refused(site, 403, "certificate-early", ROTATE_PATH, rotation(mine, key))
    clock.now += 700
    assert site.ask(ROTATE_PATH, rotation(mine, key))[0] == 200
    refused(site, 403, "certificate-revoked", ROTATE_PATH, rotation(mine, key))
    clock.now += 40 * 86_400
    refused(site, 403, "certificate-revoked", ROTATE_PATH, rotation(mine, key))
    late = site.ask(ENROL_PATH, request(claim(keeper), "watch-3", key := new_key()))[1]
    clock.now += 40 * 86_400
    refused(
        site, 403, "certificate-expired", ROTATE_PATH, rotation(late["certificate"], key, "watch-3")
    )


BODIES = {
    "empty": b"",
    "no JSON": b"\xff\xfe{",
    "deep": b"[" * 8000,
    "a list": b"[1, 2]",
    "another version": b'{"v": 2, "claim": "a", "csr": "b"}',
    "unknown keys": b'{"v": 1, "claim": "%b.%b", "csr": "b", "admin": true}'
    % (b"0" * 12, b"A" * 32),
    "SQL": b'{"v": 1, "claim": "\' OR 1=1;--", "csr": "b"}',
    "another type": b'{"v": 1, "claim": 7, "csr": ["b"]}',
}


def test_bodies_that_are_no_request(site):
    for name, body in BODIES.items():
        for path in (ENROL_PATH, ROTATE_PATH):
            row = refused(site, 400, "malformed", path, body)
            assert "OR 1=1" not in row.detail, name


def test_a_body_that_is_too_large_is_not_read(site):
    most = site.keeper.config.enrolment.max_body
    refused(site, 413, "too-large", ENROL_PATH, b"x" * (most + 1))
    before = rows(site.keeper.registry)
    connection = site.connect()
    connection.putrequest("POST", ENROL_PATH)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    chunk = b"x" * 4096

    def for_ever():
        for _ in range(1 << 18):
            connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    with pytest.raises((ConnectionError, ssl.SSLError)):  # long before a gigabyte
        for_ever()
    connection.close()
    assert rows(site.keeper.registry) == before


def test_who_is_slow_waits_for_nobody(site, monkeypatch):
    monkeypatch.setattr(https, "LIFE", 1.0)
    connection = site.connect()
    connection.putrequest("POST", ENROL_PATH)
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b"{")
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"]) == (408, "too-slow")
    connection.close()
    with socket.create_connection(("127.0.0.1", site.port)) as plain:  # never finishes its headers
        context = ssl.create_default_context(cafile=site.keeper.folder.bundle_of_cas)
        with context.wrap_socket(plain, server_hostname="localhost") as slow:
            slow.sendall(b"POST /v1/enrol HTTP/1.1\r\nX-A: ")
            slow.settimeout(10)
            with pytest.raises((ConnectionError, ssl.SSLError, AssertionError)):
                assert slow.recv(100)
    assert site.ask(ENROL_PATH, request(claim(site.keeper)))[0] == 200


def test_a_flood_is_told_to_wait_and_fills_no_log(keeper, registrar):
    settings = keeper.config.enrolment.model_copy(update={"per_minute": 5})
    keeper.config = keeper.config.model_copy(update={"enrolment": settings})
    with Site(keeper) as site:
        statuses = [site.ask(ENROL_PATH, b"{}")[0] for _ in range(20)]
        assert statuses == [400] * 5 + [429] * 15
        with keeper.registry.read() as db:
            noted = db.scalar(select(func.count()).where(Audit.action == "enrol.refused"))
            last = json.loads(audit.newest(db, 1)[0].detail)
        assert (noted, last["error"]) == (6, "too-many")
        assert site.ask(ENROL_PATH, request(claim(keeper)), "127.0.0.2")[0] == 200


def test_what_was_not_foreseen_counts_as_a_refusal(keeper, monkeypatch):
    settings = keeper.config.enrolment.model_copy(update={"per_minute": 5})
    keeper.config = keeper.config.model_copy(update={"enrolment": settings})
    with Site(keeper) as site:
        monkeypatch.setattr(https, "_claimed_name", lambda _asked: 1 // 0)
        asked = request(f"{'0' * 12}.{'A' * 32}")
        assert [site.ask(ENROL_PATH, asked)[0] for _ in range(8)] == [500] * 5 + [429] * 3


def test_one_claim_presented_by_many_at_once_enrols_one(site):
    token = claim(site.keeper)
    statuses: list[int] = []
    threads = [
        threading.Thread(
            target=lambda n=n: statuses.append(site.ask(ENROL_PATH, request(token, f"d{n}"))[0])
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [403] * 7
    with site.keeper.registry.read() as db:
        assert db.scalar(select(func.count()).select_from(Device)) == 1
        assert list(audit.faults(db)) == []


def test_other_paths_methods_and_old_tls(site):
    for path in ("/", "/v1/../../etc/passwd", "/v1/%2e%2e/fleet.toml", "/ca/1.key", "/docs"):
        status, answer = site.ask(path, b"{}")
        assert (status, answer["error"]) == (404, "not-found")
    connection = site.connect()
    connection.request("GET", "/v1/enrol")
    assert connection.getresponse().status == 405
    connection.close()
    context = ssl.create_default_context(cafile=site.keeper.folder.bundle_of_cas)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", site.port)) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", site.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        plain.settimeout(5)
        assert not plain.recv(100).startswith(b"HTTP")
