"""What devices and the enrolment server say to one another: see ``server/ENROLMENT.md``."""

import base64
import binascii
import hashlib
import re
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import ConfigDict, Field

from schemas.base import Strict
from schemas.wire import DeviceId

CA_PATH: Final = "/v1/ca"
ENROL_PATH: Final = "/v1/enrol"
ROTATE_PATH: Final = "/v1/rotate"
PURPOSE: Final = b"flwr-edge rotate v1\n"
MAX_REPLY: Final = 65_536
Pem = Annotated[str, Field(min_length=1, max_length=8192)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Token = Annotated[str, Field(pattern=r"^[0-9a-f]{12}\.[A-Za-z0-9_-]{32}(\.[A-Za-z0-9_-]{43})?$")]
_URL: Final = re.compile(r"https://(?P<server>[A-Za-z0-9.:\[\]_-]+)/enrol#(?P<claim>\S+)")


class Sent(Strict):
    """What is sent is typed strictly."""

    model_config = ConfigDict(strict=True)
    v: Literal[1] = 1


class EnrolRequest(Sent):
    """A claim and a certificate signing request; its common name is the device's."""

    claim: Token
    csr: Pem


class RotateRequest(Sent):
    """A new key's request, under the old identity.

    Attributes
    ----------
    signature
        Of the old key over ``PURPOSE`` and the request's DER, base64.
    """

    certificate: Pem
    csr: Pem
    signature: str = Field(min_length=1, max_length=512)


class BrokerSettings(Sent):
    """Where the broker is."""

    host: str = Field(min_length=1, max_length=253)
    port: int = Field(ge=1, le=65_535)


class EnrolReply(Sent):
    """Accepted, with the certificate; or waiting for an operator, who sees the same fingerprint.

    Attributes
    ----------
    csr_sha256
        Of the request's DER.
    ca
        All authorities that are trusted now, PEM.
    fleet_key
        Ed25519, hexadecimal: it signs tasks and bundles.
    renew_at
        Unix time from which the device should rotate.
    retry_after
        Seconds after which to ask again, the same request.
    """

    state: Literal["accepted", "pending"]
    device: DeviceId
    csr_sha256: Digest
    certificate: Pem | None = None
    ca: str | None = Field(None, max_length=32_768)
    broker: BrokerSettings | None = None
    fleet_key: Digest | None = None
    renew_at: float | None = None
    retry_after: float | None = None


class Problem(Sent):
    """Why a request was refused: a word for programs, a sentence for people."""

    error: str = Field(pattern=r"^[a-z-]{1,40}$")
    detail: str = Field(max_length=1000)


class ClaimText(NamedTuple):
    """A claim as it is handed over: the secret's name, the secret, the CA to expect."""

    id: str
    secret: str
    ca: str

    def __str__(self) -> str:
        pin = base64.urlsafe_b64encode(bytes.fromhex(self.ca)).decode().rstrip("=")
        return f"{self.id}.{self.secret}.{pin}"

    @classmethod
    def parse(cls, text: str) -> "ClaimText":
        """Read a claim.

        Raises
        ------
        ValueError
            Where it is none; the text is not repeated, since it may be half a secret.
        """
        id_, _, rest = text.strip().partition(".")
        secret, _, pin = rest.partition(".")
        try:
            ca = base64.urlsafe_b64decode(f"{pin}=").hex()
        except (binascii.Error, ValueError):
            ca = ""
        if not re.fullmatch(r"[0-9a-f]{12}", id_) or len(secret) != 32 or len(ca) != 64:
            raise ValueError("expected a claim as flwr-fleet claim create prints it: ID.SECRET.CA")
        return cls(id_, secret, ca)

    @property
    def sent(self) -> str:
        """What goes to the server: it knows its CA."""
        return f"{self.id}.{self.secret}"


def secret_hash(secret: str) -> str:
    """What the registry keeps of a claim's secret; 192 random bits need no salt."""
    return hashlib.sha256(b"flwr-edge claim v1\n" + secret.encode()).hexdigest()


def enrol_url(server: str, claim: ClaimText) -> str:
    """What a QR code holds; what follows the # never travels in a request."""
    return f"https://{server}/enrol#{claim}"


def parse_url(text: str) -> tuple[str, str]:
    """Server and claim of what a QR code holds.

    Raises
    ------
    ValueError
    """
    found = _URL.fullmatch(text.strip())
    if found is None:
        raise ValueError("expected https://HOST:PORT/enrol#CLAIM")
    return found["server"], found["claim"]
