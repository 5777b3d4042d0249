"""Keeps a fleet's folder true to its registry: lists, certificates, and who else must know.

A command keeps it once, after what it did; ``serve`` keeps it all the time. Both may run at once:
what they write lies under one lock, and is made from the database after the lock is held.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from schemas.fleet import FleetConfig, FleetFolder
from server.fleet import anchor, devices, hooks, quarantine
from server.fleet.authority import Authority, Revoked
from server.fleet.hooks import Changes
from server.fleet.lock import held
from server.fleet.registry import Registry, audit
from server.fleet.secret import write, write_private

_LEFT: Final = 1 / 3  # of a certificate's life, before whose end it is renewed
_THINNED: Final = 86_400.0  # seconds between two looks through the whole audit log
_GRACE: Final = 600.0  # seconds in which a device may still come with the key it rotated away
_log = logging.getLogger("flwr_edge.fleet")


class Keeper:
    """Of one fleet.

    Parameters
    ----------
    folder : FleetFolder
    config : FleetConfig
    registry : Registry
    authority : Authority
    """

    def __init__(
        self, folder: FleetFolder, config: FleetConfig, registry: Registry, authority: Authority
    ) -> None:
        self.folder, self.config = folder, config
        self.registry, self.authority = registry, authority
        self._accepted: list[str] = []
        self._lock = threading.Lock()
        self._thinned: float | None = None
        self._wrong: set[str] = set()

    def accepted(self, device: str) -> None:
        """Note that a device came; ``flush`` tells the others, in batches."""
        with self._lock:
            self._accepted.append(device)

    def flush(self) -> None:
        """Tell who must know of devices that came."""
        with self._lock:
            names, self._accepted = self._accepted, []
        if not names:
            return
        try:
            self.apply(Changes(accepted=names))
        except BaseException:
            with self._lock:  # the next flush tells of them
                self._accepted[:0] = names
            raise

    def apply(self, changes: Changes) -> list[str]:
        """Do what follows from changes that are in the database; what went wrong, a line each."""
        if changes.revoked or changes.gone or self._stale():
            changes = replace(changes, replaced=self._replaced(self.publish()))
        wrong = hooks.changed(self.folder, self.config, changes)
        for line in wrong:
            _log.error("%s", line)
        self.note()
        return wrong

    def publish(self) -> list[Revoked]:
        """Write the trusted CAs and the revocation lists; what the lists that lay there lacked."""
        with held(self.folder.root):
            self.authority.reload()  # somebody may have rolled over since
            revoked, new = self._revoked(), list[Revoked]()
            with contextlib.suppress(FileNotFoundError, ValueError):  # there were none to go by
                new = self._unlisted(revoked)
            write(self.folder.bundle_of_cas, self.authority.chain.encode())
            write(self.folder.crl, self.authority.crl(revoked).encode())
            return new

    def note(self) -> None:
        """Note the audit log's head outside of the database."""
        with held(self.folder.root), self.registry.read() as db:
            anchor.note(self.folder.anchor, audit.head(db))

    def tick(self) -> bool:
        """Renew what is due; whether certificates of server or broker changed."""
        self.authority.reload()
        with self.registry.write("server") as transaction:
            retired = devices.retire_old(transaction, self.registry.clock() - _GRACE)
            quarantine.lift_those_over(transaction)
        changed = self.renew_services()
        wrong: list[str] = []
        if retired or changed or self._stale():
            # Who rotated by itself is left its session: it has its new key.
            new = [line for line in self.publish() if line.serial not in retired]
            told = Changes(replaced=self._replaced(new))
            wrong += hooks.changed(self.folder, self.config, told)
        self.note()
        self._tell(wrong + hooks.tick(self.folder, self.config))
        self._thin()
        return changed

    def _tell(self, wrong: list[str]) -> None:
        """Log what a tick could not do, once while it lasts: a broker may be down for days."""
        for line in wrong:
            if line not in self._wrong:
                _log.error("%s; tried again until it is done", line)
        if self._wrong and not wrong:
            _log.warning("what could not be done before is done now")
        self._wrong = set(wrong)

    def _thin(self) -> None:
        """Take out old notes of the audit log's head, once a day: else their file has no end."""
        now = self.registry.clock()
        if self._thinned is not None and 0 <= now - self._thinned < _THINNED:
            return
        self._thinned = now  # first: where it cannot be done, it is tried again tomorrow
        try:
            with self.registry.read() as db:
                anchor.thin(self.folder.anchor, db)
        except OSError as error:  # a full disk
            _log.error("%s: cannot be thinned: %s", self.folder.anchor, error)

    def renew_services(self) -> bool:
        """Issue certificates to the server and the broker where theirs are old, or not there."""
        server, broker = self.config.server, self.config.broker
        learns = self.folder.federation
        return any(
            [
                self._renew("server", self.folder.server, broker.server, server, client=True),
                self._renew("server", learns, broker.federation, server, client=True),
                self._renew("broker", self.folder.broker, "broker", broker, client=False),
            ]
        )

    def _renew(self, use: str, where: Path, name: str, place: Any, *, client: bool) -> bool:
        names = _names(place)
        if self._fresh(where / "certificate.pem", names):
            return False
        where.mkdir(mode=0o750, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self.authority.issue_service(name, key.public_key(), names, client=client)
        with self.registry.write("server") as transaction:
            devices.note_service(transaction, issued, use)
        # Not encrypted: neither Mosquitto nor an MQTT client asks for a passphrase.
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(where / "key.pem", plain)
        write(where / "certificate.pem", (issued.pem + self.authority.serving.pem).encode())
        return True

    def _fresh(self, path: Path, names: Iterable[str]) -> bool:
        try:
            leaf = x509.load_pem_x509_certificate(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        start, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        left = end - self.registry.clock()
        return (
            left > (end - start) * _LEFT
            and leaf.issuer == self.authority.serving.certificate.subject
            and _alternatives(leaf) == set(names)
        )

    def _revoked(self) -> list[Revoked]:
        with self.registry.read() as db:
            return devices.revoked_certificates(db, self.registry.clock())

    def _unlisted(self, revoked: Iterable[Revoked]) -> list[Revoked]:
        """What the lists in the folder should hold and do not."""
        listed = _serials(self.folder.crl.read_bytes())
        trusted = {ca.id for ca in self.authority.trusted}
        return [
            line
            for line in revoked
            if line.issuer in trusted and int(line.serial, 16) not in listed
        ]

    def _replaced(self, new: Iterable[Revoked]) -> list[str]:
        """Devices that are still in, of certificates that came on the lists: they have others.

        Who holds such a certificate may hold the device's session, and keep it.
        """
        names = {line.device for line in new if line.device is not None}
        with self.registry.read() as db:
            return devices.accepted(db, names)

    def _stale(self) -> bool:
        """Whether a list is half over, or missing, or of other CAs, or lacks what is revoked.

        Expired, it locks all out; incomplete, as a kill or a replaced key leaves it, it lets in
        whom the registry has thrown out.
        """
        try:
            lists = x509_crls(self.folder.crl.read_bytes())
            chain = self.folder.bundle_of_cas.read_text()
            if self._unlisted(self._revoked()):
                return True
        except (FileNotFoundError, ValueError):
            return True
        soon = self.registry.clock() + self.config.lifetimes.crl_hours * 3600 / 2
        ends = [one.next_update_utc for one in lists]
        return chain != self.authority.chain or any(
            end is None or end.timestamp() < soon for end in ends
        )


def x509_crls(pem: bytes) -> list[x509.CertificateRevocationList]:
    """All revocation lists of a file."""
    mark = b"-----END X509 CRL-----"
    parts = [part + mark for part in pem.split(mark)[:-1]]
    return [x509.load_pem_x509_crl(part) for part in parts]


@functools.lru_cache(maxsize=1)  # looked at every few seconds, and seldom another
def _serials(pem: bytes) -> frozenset[int]:
    return frozenset(line.serial_number for one in x509_crls(pem) for line in one)


def _names(place: Any) -> list[str]:
    return list(dict.fromkeys([place.host, *place.names, "localhost", "127.0.0.1"]))


def _alternatives(leaf: x509.Certificate) -> set[str]:
    extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in extension.value}
