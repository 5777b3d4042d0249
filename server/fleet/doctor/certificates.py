"""Checks of the CA, of the server's and the broker's certificates, of their keys and the CRL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from schemas.base import ConfigError
from server.fleet.authority import Ca, key_id
from server.fleet.doctor.finding import (
    Check,
    Deployment,
    Finding,
    fault,
    locked,
    ok,
    sealed,
    warning,
)
from server.fleet.keeper import x509_crls

_DAY: Final = 86_400.0
_SOON: Final = 14 * _DAY  # before a certificate's end
_CA_SOON: Final = 90 * _DAY  # a roll-over takes its overlap
_RENEW: Final = "run flwr-fleet serve, which renews it, or flwr-fleet init once"
_RESTORE: Final = "bring it back from a backup: flwr-fleet restore"


def authority(it: Deployment) -> Iterator[Finding]:
    """The CA that issues: there, readable, good for a while, and its key's owner."""
    try:
        newest = it.authority.newest
    except ValueError as error:
        yield fault("ca", str(error), f"do not make another: {_RESTORE}")
        return
    left = newest.ends - it.now
    seen = f"CA {newest.number}, {_days(left)}"
    roll = "run flwr-fleet ca rollover"
    if left <= 0:
        yield fault("ca", seen, f"{roll}; every device must enroll again")
    elif left < max(_CA_SOON, it.config.lifetimes.overlap_days * _DAY):
        yield warning("ca", seen, f"{roll}: devices take the new one while both are trusted")
    else:
        yield ok("ca", seen)
    file = it.folder.bundle_of_cas
    if file.is_file() and file.read_text(errors="replace") == it.authority.chain:
        yield ok("ca-bundle", f"{file.name} holds {len(it.authority.trusted)} trusted")
    else:
        yield fault("ca-bundle", f"{file}: missing, or not the CAs that are trusted", _RENEW)


def authority_key(it: Deployment) -> Iterator[Finding]:
    """The CA's key: decrypts, and is the certificate's."""
    if it.locked:
        yield locked("ca-key")
        return
    try:
        opens = it.secret
    except ConfigError as error:
        yield sealed("ca-key", error)
        return
    newest = it.authority.newest
    file = it.folder.ca / f"{newest.number}.key"
    try:
        key = load_pem_private_key(file.read_bytes(), opens)
    except (OSError, ValueError, TypeError) as error:
        same = "is the key file or passphrase the one that it was encrypted with? If it is lost, "
        yield fault("ca-key", f"{file}: {error}", same + _RESTORE)
        return
    yield _matching("ca-key", file, key, newest.certificate, _RESTORE)


def server(it: Deployment) -> Iterator[Finding]:
    """What the enrolment server shows."""
    yield from _service(it, "server", it.folder.server, it.config.server.host)


def broker(it: Deployment) -> Iterator[Finding]:
    """What the broker shows."""
    yield from _service(it, "broker", it.folder.broker, it.config.broker.host)


def crl(it: Deployment) -> Iterator[Finding]:
    """The revocation lists: one of each CA, by it, and not over. Else nobody gets in."""
    try:
        lists = x509_crls(it.folder.crl.read_bytes())
    except (OSError, ValueError) as error:
        yield fault("crl", f"{it.folder.crl}: {error}", _RENEW)
        return
    for ca in it.authority.trusted:
        yield _listed(it, ca, lists)


def key_modes(it: Deployment) -> Iterator[Finding]:
    """Nobody but their owner reads private keys."""
    folder = it.folder
    files = [*sorted(folder.ca.glob("*.key")), folder.signing_key, folder.server / "control.key"]
    files += [folder.server / "key.pem", folder.broker / "key.pem"]
    files += [folder.secret(it.config)] if it.config.secrets.kind == "file" else []
    there = [file for file in files if file.exists()]
    loose = [file for file in there if file.stat().st_mode & 0o077]
    for file in loose:
        seen = f"{file}: mode {file.stat().st_mode & 0o777:o} lets others at it"
        yield fault("key-mode", seen, f"chmod 600 {file}; renew it if somebody may have read it")
    if not loose:
        yield ok("key-mode", f"{len(there)} private keys, each for its owner alone")


def _service(it: Deployment, use: str, where: Path, host: str) -> Iterator[Finding]:
    name, file = f"{use}-certificate", where / "certificate.pem"
    try:
        leaf = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        yield fault(name, f"{file}: {error}", _RENEW)
        return
    again = f"remove {file} and run flwr-fleet serve, which issues another"
    start, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    left = end - it.now
    if not any(_issued(leaf, ca) for ca in it.authority.trusted):
        yield fault(name, f"{file}: of none of the CAs that are trusted", again)
    elif left <= 0:
        yield fault(name, f"{file}: {_days(left)}", _RENEW)
    elif host not in _names(leaf):
        yield fault(name, f"{file}: not for {host}, which fleet.toml names", _RENEW)
    elif left < min(_SOON, (end - start) / 4):
        yield warning(name, f"{_days(left)}; serve renews it long before", _RENEW)
    else:
        yield ok(name, _days(left))
    yield _service_key(f"{use}-key", where / "key.pem", leaf, again)


def _service_key(name: str, file: Path, leaf: x509.Certificate, advice: str) -> Finding:
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        return fault(name, f"{file}: {error}", advice)
    return _matching(name, file, key, leaf, advice)


def _matching(name: str, file: Path, key: Any, of: x509.Certificate, advice: str) -> Finding:
    if key_id(key.public_key()) != key_id(of.public_key()):
        return fault(name, f"{file}: another key than the certificate's", advice)
    return ok(name, "the certificate's")


def _listed(it: Deployment, ca: Ca, lists: list[x509.CertificateRevocationList]) -> Finding:
    public: Any = ca.certificate.public_key()
    own = [one for one in lists if one.issuer == ca.certificate.subject]
    if not own or not own[0].is_signature_valid(public):
        return fault("crl", f"{it.folder.crl}: no list that CA {ca.number} signed", _RENEW)
    end = own[0].next_update_utc
    left = end.timestamp() - it.now if end else 0.0
    seen = f"list of CA {ca.number}: {len(own[0])} revoked, {_hours(left)}"
    if left <= 0:
        return fault("crl", seen, f"nobody can connect by it; {_RENEW}")
    if left < it.config.lifetimes.crl_hours * 3600 / 4:
        return warning("crl", f"{seen}; serve renews it at half", _RENEW)
    return ok("crl", seen)


def _issued(leaf: x509.Certificate, ca: Ca) -> bool:
    try:
        leaf.verify_directly_issued_by(ca.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names(leaf: x509.Certificate) -> set[str]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in extension.value}


def _days(left: float) -> str:
    days = abs(left) / _DAY
    return f"expires in {days:.1f} days" if left > 0 else f"expired {days:.1f} days ago"


def _hours(left: float) -> str:
    hours = abs(left) / 3600
    return f"over in {hours:.1f} h" if left > 0 else f"over since {hours:.1f} h"


CHECKS: Final[dict[str, Check]] = {
    "ca": authority,
    "ca-key": authority_key,
    "server-certificate": server,
    "broker-certificate": broker,
    "crl": crl,
    "key-mode": key_modes,
}
