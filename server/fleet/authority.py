"""The fleet's certificate authority: who it is, what it issues, and the list of what it revoked.

A roll-over makes a second CA. From then on devices get certificates of the new one, and trust both;
server and broker keep certificates of the old one until half of ``overlap_days`` is over, so that
every device has the new one by then; after all of it the old CA is trusted no more. All of this
follows from when the newest CA was made: there is no state that could be lost.
"""

import datetime as dt
import hashlib
import ipaddress
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from schemas.base import ConfigError
from schemas.fleet import FleetFolder, Lifetimes
from server.fleet.errors import Refusal
from server.fleet.lock import held
from server.fleet.secret import write, write_private

_DAY: Final = 86_400.0
_EARLY: Final = 600.0  # seconds that a certificate is valid before it is made: clocks differ
_REASONS: Final = {reason.value: reason for reason in x509.ReasonFlags}


@dataclass(frozen=True)
class Issued:
    """A certificate, and what the registry notes of it."""

    pem: str
    serial: str
    subject: str
    key: str
    issuer: str
    not_before: float
    not_after: float


@dataclass(frozen=True)
class Revoked:
    """A line of the revocation list."""

    serial: str
    at: float
    reason: str | None
    issuer: str
    device: str | None = None


@dataclass(frozen=True)
class Ca:
    """One CA."""

    number: int
    certificate: x509.Certificate

    @property
    def id(self) -> str:
        """SHA-256 of the certificate."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def made(self) -> float:
        """Unix time."""
        return self.certificate.not_valid_before_utc.timestamp() + _EARLY

    @property
    def ends(self) -> float:
        """Unix time."""
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def pem(self) -> str:
        """As files hold it."""
        return self.certificate.public_bytes(Encoding.PEM).decode()


class Authority:
    """The CAs of a fleet's folder.

    Parameters
    ----------
    folder : FleetFolder
    lifetimes : Lifetimes
    secret : bytes
        What the CAs' keys are encrypted with.
    clock : callable() -> float
        Unix time.

    Raises
    ------
    ConfigError
        Where there is no CA.
    """

    def __init__(
        self,
        folder: FleetFolder,
        lifetimes: Lifetimes,
        secret: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.lifetimes, self.clock = folder, lifetimes, clock
        self._secret = secret
        self._keys: dict[int, Any] = {}
        self.reload()

    @classmethod
    def create(
        cls,
        folder: FleetFolder,
        lifetimes: Lifetimes,
        secret: bytes,
        name: str,
        clock: Callable[[], float] = time.time,
    ) -> "Authority":
        """Make the next CA: the first one, or a roll-over's. No file is written over.

        Raises
        ------
        FileExistsError
            Where another process makes it at the same time.
        """
        folder.ca.mkdir(mode=0o700, exist_ok=True)
        number = _next(folder.ca)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"{name} CA {number}")
        made = _ca_builder(subject, key, clock(), lifetimes.ca_days).sign(key, hashes.SHA256())
        _write_new(folder.ca / f"{number}.key", _encrypted(key, secret), 0o600)
        _write_new(folder.ca / f"{number}.pem", made.public_bytes(Encoding.PEM), 0o644)
        return cls(folder, lifetimes, secret, clock)

    def roll_over(self, name: str) -> None:
        """Make the next CA; both are trusted for ``overlap_days``.

        Raises
        ------
        Refusal
            Where a roll-over is under way; another process may have begun it a moment ago.
        """
        with held(self.folder.root):
            self.check_settled()
            self.create(self.folder, self.lifetimes, self._secret, name, self.clock)
        self.reload()

    def check_settled(self) -> None:
        """Look at the folder again: no roll-over may be under way.

        Raises
        ------
        Refusal
        """
        self.reload()
        if len(self.trusted) > 1:
            raise Refusal("a roll-over is under way; the old authority is still trusted")

    def reload(self) -> None:
        """Read the CAs' certificates again: another process may have rolled over."""
        paths = sorted(self.folder.ca.glob("*.pem"), key=lambda path: int(path.stem))
        if not paths:
            raise ConfigError(str(self.folder.ca), ["no CA here; run flwr-fleet init"])
        self.cas = [
            Ca(int(path.stem), x509.load_pem_x509_certificate(path.read_bytes())) for path in paths
        ]

    @property
    def newest(self) -> Ca:
        """It issues devices' certificates."""
        return self.cas[-1]

    @property
    def trusted(self) -> list[Ca]:
        """Those that are trusted now, oldest first."""
        over = self.newest.made + self.lifetimes.overlap_days * _DAY
        alive = [ca for ca in self.cas if ca.ends > self.clock()]
        return [ca for ca in alive if ca is self.newest or self.clock() < over]

    @property
    def serving(self) -> Ca:
        """It issues the server's and the broker's certificates.

        Raises
        ------
        Refusal
            Where the newest one's life is over too.
        """
        if not (trusted := self.trusted):
            end = _when(self.newest.ends).isoformat(timespec="seconds")
            hint = "run flwr-fleet ca rollover, and enroll every device again"
            raise Refusal(f"authority {self.newest.number} expired at {end}; {hint}")
        moved = self.newest.made + self.lifetimes.overlap_days * _DAY / 2
        return self.newest if self.clock() >= moved else trusted[0]

    @property
    def chain(self) -> str:
        """All that are trusted, PEM."""
        return "".join(ca.pem for ca in self.trusted)

    def issue_device(self, device: str, key: Any) -> Issued:
        """A short-lived certificate of a device, for its public key."""
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(self.newest, device, key, self.lifetimes.device_days, usage, ())

    def issue_service(self, name: str, key: Any, names: Iterable[str], *, client: bool) -> Issued:
        """A certificate of the server or the broker: of its names, and as a client where asked."""
        usage = [ExtendedKeyUsageOID.SERVER_AUTH]
        usage += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
        days = self.lifetimes.server_days
        return self._issue(self.serving, name, key, days, usage, dict.fromkeys(names))

    def crl(self, revoked: Iterable[Revoked]) -> str:
        """The revocation lists of all trusted CAs, PEM."""
        lines = list(revoked)
        return "".join(
            self._crl(ca, [line for line in lines if line.issuer == ca.id]) for ca in self.trusted
        )

    def _issue(
        self, ca: Ca, name: str, key: Any, days: float, usage: list[Any], names: Iterable[str]
    ) -> Issued:
        start, end = self.clock() - _EARLY, min(self.clock() + days * _DAY, ca.ends)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(ca.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_when(start))
            .not_valid_after(_when(end))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_authority_id(ca), critical=False)
        )
        if alternative := [_general_name(each) for each in names]:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternative), critical=False
            )
        made = builder.sign(self._key(ca), hashes.SHA256())
        return Issued(
            pem=made.public_bytes(Encoding.PEM).decode(),
            serial=serial_hex(made.serial_number),
            subject=name,
            key=key_id(key),
            issuer=ca.id,
            not_before=made.not_valid_before_utc.timestamp(),
            not_after=made.not_valid_after_utc.timestamp(),
        )

    def _crl(self, ca: Ca, lines: list[Revoked]) -> str:
        now = self.clock()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(ca.certificate.subject)
            .last_update(_when(now - _EARLY))
            .next_update(_when(now + self.lifetimes.crl_hours * 3600))
            .add_extension(x509.CRLNumber(int(now * 1000)), critical=False)
            .add_extension(_authority_id(ca), critical=False)
        )
        for line in lines:
            builder = builder.add_revoked_certificate(_revoked(line))
        return builder.sign(self._key(ca), hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def _key(self, ca: Ca) -> Any:
        if ca.number not in self._keys:
            path = self.folder.ca / f"{ca.number}.key"
            try:
                self._keys[ca.number] = load_pem_private_key(path.read_bytes(), self._secret)
            except (OSError, ValueError, TypeError) as error:
                hint = "is the key file or passphrase the one it was encrypted with?"
                raise ConfigError(str(path), [f"{error}; {hint}"]) from None
        return self._keys[ca.number]


def key_id(key: Any) -> str:
    """SHA-256 of a public key's SubjectPublicKeyInfo, hexadecimal."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def serial_hex(serial: int) -> str:
    """A serial number as OpenSSL prints it."""
    return f"{serial:X}".zfill(2)


def encrypted_key(path: Path, key: Any, secret: bytes) -> None:
    """Write a private key, encrypted."""
    write_private(path, _encrypted(key, secret))


def _next(folder: Path) -> int:
    """The next CA's number: that of a key whose certificate a kill left unwritten is used up."""
    files = [path for path in folder.iterdir() if path.suffix in (".key", ".pem")]
    return 1 + max((int(path.stem) for path in files if path.stem.isdecimal()), default=0)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all, where there is none: a CA's key is never replaced."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write(part, data, mode)
    try:
        path.hardlink_to(part)
    finally:
        part.unlink()


def _encrypted(key: Any, secret: bytes) -> bytes:
    data: bytes = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(secret)
    )
    return data


def _ca_builder(subject: x509.Name, key: Any, now: float, days: float) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder(subject, subject, public, x509.random_serial_number())
        .not_valid_before(_when(now - _EARLY))
        .not_valid_after(_when(now + days * _DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(*, sign: bool) -> x509.KeyUsage:
    """Of a certificate that signs handshakes, or of a CA, which signs certificates and lists."""
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=not sign,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_id(ca: Ca) -> x509.AuthorityKeyIdentifier:
    identifier = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def _revoked(line: Revoked) -> x509.RevokedCertificate:
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(int(line.serial, 16))
        .revocation_date(_when(line.at))
    )
    reason = _REASONS.get(line.reason or "")
    if reason is not None:
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    return builder.build()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _when(unix: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(unix), dt.UTC)
