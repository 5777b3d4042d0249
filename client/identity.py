"""Who this device is: its key, certificate and authorities, changed all at once or not at all.

A folder a set, ``current`` a link to the one that counts: the link is replaced by a rename, so that
a power cut leaves the old set or the new. A key that asked and has no answer yet lies in
``pending``; the same request is sent again until there is one. Keys never leave this folder. What
root makes here belongs to whoever owns the folder around it: the service reads and rotates it.
"""

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from client.files import Owner, give, make_folder, owner_near, write_private
from schemas.enrolment import EnrolReply
from schemas.incoming import sync_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

FILES: Final = ("key.pem", "certificate.pem", "ca.pem", "identity.json")


class IdentityError(RuntimeError):
    """Files of an identity that are missing, or do not belong together."""


@dataclass(frozen=True)
class Pending:
    """A request under way.

    Attributes
    ----------
    csr : str
        PEM; ``sha256`` is of its DER, in hexadecimal.
    """

    key: "EllipticCurvePrivateKey"
    csr: str
    der: bytes
    sha256: str


class Identity:
    """A device's identity.

    Parameters
    ----------
    root : Path
        A folder of its own.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.current = self.root / "current"
        self.key = self.current / "key.pem"
        self.certificate = self.current / "certificate.pem"
        self.ca = self.current / "ca.pem"
        self._pending = self.root / "pending"

    def exists(self) -> bool:
        """Whether there is one."""
        return all((self.current / name).exists() for name in FILES)

    def facts(self) -> dict[str, Any]:
        """Its server, name, and when it is to be rotated.

        Raises
        ------
        IdentityError
            Where there is none.
        """
        try:
            facts = json.loads((self.current / "identity.json").read_text(encoding="utf-8"))
            return {"server": str(facts["server"]), "device": str(facts["device"])} | {
                "renew_at": float(facts["renew_at"])
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IdentityError(f"{self.current}: no identity here: {error}") from None

    def private_key(self) -> "EllipticCurvePrivateKey":
        """The key that counts."""
        return _loaded(self.key)

    def pending(self, device: str) -> Pending:
        """The request under way; a new one, with a new key, where there is none for this name."""
        from cryptography import x509

        path = self._pending / "csr.pem"
        try:
            pem, key = path.read_text(encoding="ascii"), _loaded(self._pending / "key.pem")
            request = x509.load_pem_x509_csr(pem.encode())
            if _common_name(request) == device and request.public_key() == key.public_key():
                return _pending(key, pem)
        except (OSError, ValueError, IdentityError):
            pass  # nothing, or half of it: a power cut came before it was sent
        return self._ask_anew(device)

    def forget_pending(self) -> None:
        """Give a request up: the next has a new key."""
        shutil.rmtree(self._pending, ignore_errors=True)

    def take(self, server: str, pending: Pending, reply: EnrolReply) -> None:
        """Make what was answered the identity.

        Raises
        ------
        IdentityError
            Where the certificate is not for the key that asked, or not of the authorities beside
            it; then nothing changes.
        """
        _check(pending, reply)
        facts = {"server": server, "device": reply.device, "renew_at": reply.renew_at}
        owner = owner_near(self.root.parent)
        give(self.root, owner)
        folder = self._new_folder(owner)
        key = (self._pending / "key.pem").read_bytes()
        write_private(folder / "key.pem", key, owner)
        write_private(folder / "certificate.pem", str(reply.certificate).encode(), owner)
        write_private(folder / "ca.pem", str(reply.ca).encode(), owner)
        write_private(folder / "identity.json", json.dumps(facts).encode(), owner)
        link = self.root / ".current"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(self.current)
        sync_folder(self.root)
        self.forget_pending()
        self._forget_old(folder)

    def _new_folder(self, owner: Owner | None) -> Path:
        taken = [int(path.name) for path in self.root.iterdir() if path.name.isdecimal()]
        folder = self.root / str(1 + max(taken, default=0))
        make_folder(folder, owner, 0o700)
        return folder

    def _forget_old(self, keep: Path) -> None:
        for path in self.root.iterdir():
            if path.name.isdecimal() and path != keep:
                shutil.rmtree(path, ignore_errors=True)

    def _ask_anew(self, device: str) -> Pending:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
        request = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
        pem = request.public_bytes(serialization.Encoding.PEM)
        self.forget_pending()
        owner = owner_near(self.root.parent)
        make_folder(self._pending, owner, 0o700)
        plain = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_private(self._pending / "key.pem", plain, owner)
        write_private(self._pending / "csr.pem", pem, owner)
        return _pending(key, pem.decode())


def _pending(key: "EllipticCurvePrivateKey", pem: str) -> Pending:
    import hashlib

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    der = x509.load_pem_x509_csr(pem.encode()).public_bytes(Encoding.DER)
    return Pending(key, pem, der, hashlib.sha256(der).hexdigest())


def _loaded(path: Path) -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise IdentityError(f"{path}: {error}") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise IdentityError(f"{path}: no key of an elliptic curve")
    return key


def _common_name(thing: Any) -> str:
    return str(next(iter(thing.subject)).value)


def _check(pending: Pending, reply: EnrolReply) -> None:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    if reply.certificate is None or reply.ca is None or reply.renew_at is None:
        raise IdentityError("the server accepted, and sent no certificate")
    try:
        leaf = x509.load_pem_x509_certificate(reply.certificate.encode())
        authorities = x509.load_pem_x509_certificates(reply.ca.encode())
    except ValueError as error:
        raise IdentityError(f"the server's certificates cannot be read: {error}") from None
    if leaf.public_key() != pending.key.public_key() or _common_name(leaf) != reply.device:
        raise IdentityError("the server's certificate is for another key or name")
    for authority in authorities:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            leaf.verify_directly_issued_by(authority)
            return
    raise IdentityError("the certificate is of none of the authorities beside it")
