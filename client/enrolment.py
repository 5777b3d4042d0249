"""Asks the fleet's server for a certificate: the first by a claim, the next by the last.

The first contact is safe because the claim names the fleet's authority by its hash: the server's
certificate must be of it before the claim's secret is sent.
"""

import base64
import hashlib
import http.client
import re
import ssl
import time
from collections.abc import Callable
from typing import Any, Final

from pydantic import ValidationError

from client.identity import Identity, Pending
from schemas.base import ConfigError
from schemas.distrust import distrusted
from schemas.enrolment import (
    CA_PATH,
    ENROL_PATH,
    MAX_REPLY,
    PURPOSE,
    ROTATE_PATH,
    ClaimText,
    EnrolReply,
    EnrolRequest,
    Problem,
    RotateRequest,
    Sent,
)

PORT: Final = 8443
_PORT: Final = "(:(?P<port>[0-9]{1,5}))?"
_BRACKETED: Final = re.compile(rf"\[(?P<host>[^][/]+)\]{_PORT}")
_BARE: Final = re.compile(r"(?P<host>[^][/:]*:[^][/:]*:[^][/]*)(?P<port>)")  # IPv6, and no port
_NAMED: Final = re.compile(rf"(?P<host>[^][/:]+){_PORT}")
_PATIENCE: Final = 20.0  # seconds for one answer
_UP: Final = 30.0  # seconds to wait for a server that is not there yet
_LEAST: Final = 1.0  # seconds between two questions


class EnrolmentError(RuntimeError):
    """The server refused, or is not the fleet's.

    Attributes
    ----------
    word
        The server's word for it, or "".
    """

    def __init__(self, message: str, word: str = "") -> None:
        super().__init__(message)
        self.word = word


def address(server: str) -> tuple[str, int]:
    """Host and port of ``HOST[:PORT]``; an address of IPv6 stands in brackets before a port.

    Raises
    ------
    ConfigError
        Where it is none.
    """
    found = _BRACKETED.fullmatch(server) or _BARE.fullmatch(server) or _NAMED.fullmatch(server)
    port = int(found["port"] or PORT) if found else 0
    if not found or not 0 < port < 65_536:
        raise ConfigError("--server", [f"{server!r}: expected HOST or HOST:PORT"])
    return found["host"], port


def enrol(
    identity: Identity,
    server: str,
    claim: ClaimText,
    device: str,
    say: Callable[[str], None],
    wait: float = float("inf"),
) -> EnrolReply:
    """Enroll this device; waits for an operator where one must approve.

    Parameters
    ----------
    identity : Identity
        Where the key is made and kept.
    server : str
        ``HOST[:PORT]``.
    claim : ClaimText
    device : str
        Its name.
    say : callable(str)
        Takes lines for the person who looks on: the fingerprint first.
    wait : float
        Seconds to wait for an operator.

    Raises
    ------
    EnrolmentError
        Where it is refused. What is under way is kept: run again, it goes on.
    OSError
        Where the server cannot be reached.
    """
    pinned = _reached(server, claim.ca, say)
    pending = identity.pending(device)
    say(f"fingerprint {fingerprint(pending.sha256)}")
    request = EnrolRequest(claim=claim.sent, csr=pending.csr)
    end = time.monotonic() + wait
    told = False
    while True:
        reply = _asked(identity, server, ENROL_PATH, request, pinned)
        if reply.state == "accepted":
            identity.take(server, pending, reply)
            return reply
        if not told:
            say("waiting for an operator: flwr-fleet device approve " + device)
            told = True
        pause = max(_LEAST, reply.retry_after or _LEAST)
        if time.monotonic() + pause > end:
            raise EnrolmentError("no operator approved it yet; run this again to go on")
        time.sleep(pause)


def rotate(identity: Identity) -> EnrolReply:
    """Get the next certificate, for a new key, under the present identity.

    Raises
    ------
    EnrolmentError
        Where it is refused.
    IdentityError, OSError
    """
    facts = identity.facts()
    pending = identity.pending(facts["device"])
    request = RotateRequest(
        certificate=identity.certificate.read_text(encoding="ascii"),
        csr=pending.csr,
        signature=base64.b64encode(_signed(identity, pending)).decode(),
    )
    trusted = identity.ca.read_text(encoding="ascii")
    reply = _asked(identity, facts["server"], ROTATE_PATH, request, trusted)
    identity.take(facts["server"], pending, reply)
    return reply


def authority(server: str, pin: str) -> str:
    """The fleet's authority that a claim names, PEM; asked of whoever is there.

    Raises
    ------
    EnrolmentError
        Where the server has no such authority: it is another fleet's, or somebody in between.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # its hash is checked
    status, body = _exchange(server, context, "GET", CA_PATH, None)
    mark = "-----END CERTIFICATE-----"
    for part in body.decode("ascii", "replace").split(mark)[:-1]:
        pem = f"{part.strip()}\n{mark}\n"
        try:
            found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        except ValueError:
            continue
        if found == pin:
            return pem
    raise EnrolmentError(
        f"{server} is not the fleet that this claim is for (status {status}): its authority is "
        "another. Nothing was sent to it"
    )


def fingerprint(sha256: str) -> str:
    """In groups of four, as the operator's command shows it."""
    return " ".join(sha256[start : start + 4] for start in range(0, len(sha256), 4))


def _reached(server: str, pin: str, say: Callable[[str], None]) -> str:
    """The authority; a server or a network that is not up yet is waited for, a while."""
    end, told = time.monotonic() + _UP, False
    while True:
        try:
            return authority(server, pin)
        except EnrolmentError as error:
            if error.word != "unreachable" or time.monotonic() > end:
                raise
            if not told:
                say(f"{error}; trying again for {_UP:g} s")
            told = True
            time.sleep(_LEAST)


def _signed(identity: Identity, pending: Pending) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return identity.private_key().sign(PURPOSE + pending.der, ec.ECDSA(hashes.SHA256()))


def _asked(identity: Identity, server: str, path: str, request: Sent, trusted: str) -> EnrolReply:
    context = ssl.create_default_context(cadata=trusted)
    body = request.model_dump_json().encode()
    status, answer = _exchange(server, context, "POST", path, body)
    try:
        if status == 200:
            return EnrolReply.model_validate_json(answer)
        problem = Problem.model_validate_json(answer)
    except ValidationError:
        raise EnrolmentError(f"{server}: status {status}, and no answer of a fleet's") from None
    said = f"{server} refused: {problem.detail}"
    again = problem.error == "claim-used" and identity.exists()
    if problem.error == "key-reused" or again:
        identity.forget_pending()
    if again:
        said += f"; this device enrolled as {identity.facts()['device']} before, and is what it was"
    raise EnrolmentError(said, problem.error)


def _exchange(
    server: str, context: ssl.SSLContext, method: str, path: str, body: bytes | None
) -> tuple[int, bytes]:
    host, port = address(server)
    connection = http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=context)
    headers = {"Content-Type": "application/json"} if body else {}
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read(MAX_REPLY + 1)
    except ssl.SSLCertVerificationError as error:
        raise EnrolmentError(f"{server}: {distrusted(error)}") from None
    except (OSError, http.client.HTTPException) as error:
        raise EnrolmentError(f"{server}: {_said(error)}", "unreachable") from None
    finally:
        connection.close()
    if len(answer) > MAX_REPLY:
        raise EnrolmentError(f"{server}: an answer of more than {MAX_REPLY} bytes")
    return response.status, answer


def _said(error: Any) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
