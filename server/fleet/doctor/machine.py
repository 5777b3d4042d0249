"""Checks of the machine: its clock, its disk, and the port of the enrolment server."""

import shutil
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from cryptography import x509

from schemas.address import host_port
from server.fleet.doctor.finding import Check, Deployment, Finding, fault, ok, warning
from server.fleet.reach import ELSEWHERE, local
from server.fleet.registry import audit

_AHEAD: Final = 60.0  # seconds that a database's clock may differ
_PATIENCE: Final = 3.0  # seconds for a port to answer
_EXPIRED: Final = 10  # OpenSSL's word for a certificate whose time is over
_LEAST: Final = 200 << 20  # bytes free
_FEW: Final = 2 << 30
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def clock(it: Deployment) -> Iterator[Finding]:
    """Nothing here was made in the future."""
    advice = "set the clock (timedatectl, NTP): certificates and claims are good by it"
    files = [*it.folder.ca.glob("*.pem"), it.folder.bundle_of_cas]
    files += [place / "certificate.pem" for place in (it.folder.server, it.folder.broker)]
    early = [file for file in files if file.is_file() and _starts(file.read_bytes()) > it.now]
    for file in early:
        yield fault("clock", f"{file} is not valid yet: this clock is slow, or was fast", advice)
    with it.read() as db:
        rows = audit.newest(db, 1)
    ahead = rows[0].at - it.now if rows else 0.0
    if ahead > _AHEAD:
        yield fault("clock", f"the audit log's last row is {ahead:.0f} s in the future", advice)
    elif not early:
        yield ok("clock", "nothing here is of the future")


def disk(it: Deployment) -> Iterator[Finding]:
    """Room for the database, for bundles and what devices send."""
    free = shutil.disk_usage(it.folder.root).free
    seen = f"{free / (1 << 30):.1f} GiB free at {it.folder.root}"
    advice = "make room: on a full disk nothing is enrolled, revoked or noted"
    if free < _LEAST:
        yield fault("disk", seen, advice)
    else:
        yield warning("disk", seen, advice) if free < _FEW else ok("disk", seen)


def reach(it: Deployment) -> Iterator[Finding]:
    """Devices of other machines find the fleet."""
    if found := local(it.config):
        yield warning("reach", found, ELSEWHERE)
        return
    hosts = dict.fromkeys([it.config.server.host, it.config.broker.host])
    yield ok("reach", f"devices find {' and '.join(hosts)}")


def enrolment(it: Deployment) -> Iterator[Finding]:
    """The enrolment server answers as this fleet, or its port is free for it."""
    place = it.config.server
    if not place.port:
        yield ok("enrolment-port", "any that is free")
        return
    yield port(it, "enrolment-port", (place.listen, place.port), "flwr-fleet serve")


def port(it: Deployment, name: str, where: tuple[str, int], starts: str) -> Finding:
    """Who listens on a port: this fleet, nobody, or somebody else.

    Parameters
    ----------
    it : Deployment
    name : str
        The finding's.
    where : tuple[str, int]
        The address that is bound, and the port.
    starts : str
        The command after which this fleet listens there.
    """
    context = _context(it)
    address, shown = (_ANY.get(where[0], where[0]), where[1]), host_port(*where)
    try:
        _shake_hands(context, address)
    except ConnectionRefusedError:
        return _free(name, where, shown, starts)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            renew = f"run flwr-fleet serve, which renews it; if the file is new, {starts} again"
            return fault(name, f"{shown} shows a certificate that has expired", renew)
        return _another(it, name, shown, error)
    except (OSError, ValueError) as error:
        return _another(it, name, shown, error)
    return ok(name, f"{shown} answers with a certificate of this fleet")


def _another(it: Deployment, name: str, shown: str, error: Exception) -> Finding:
    advice = f"end what listens there (ss -ltnp says who), or name another port in {it.folder.file}"
    return fault(name, f"{shown} answers, but not as this fleet: {error}", advice)


def _context(it: Deployment) -> ssl.SSLContext:
    """TLS as the fleet's server speaks it: the broker takes nobody without a certificate."""
    context = ssl.create_default_context(cafile=str(it.folder.bundle_of_cas))
    own = it.folder.server
    context.load_cert_chain(own / "certificate.pem", own / "key.pem")
    return context


def _shake_hands(context: ssl.SSLContext, address: tuple[str, int]) -> None:
    with (
        socket.create_connection(address, _PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass


def _free(name: str, where: tuple[str, int], shown: str, starts: str) -> Finding:
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        advice = "name an address of this machine, and a port that this account may bind"
        return fault(name, f"{shown} cannot be bound: {error}", advice)
    return warning(name, f"{shown} is free: nobody serves", f"run {starts}")


def _starts(pem: bytes) -> float:
    """When the last of a file's certificates begins to be valid; 0 where it holds none."""
    try:
        made = x509.load_pem_x509_certificates(pem)
    except ValueError:
        return 0.0
    return max(one.not_valid_before_utc.timestamp() for one in made)


CHECKS: Final[dict[str, Check]] = {
    "clock": clock,
    "reach": reach,
    "enrolment-port": enrolment,
    "disk": disk,
}
