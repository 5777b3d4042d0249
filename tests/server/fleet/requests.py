"""Requests of devices, good and bad."""

import base64
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from schemas.enrolment import PURPOSE, EnrolRequest, RotateRequest
from server.fleet import claims


def new_key() -> Any:
    return ec.generate_private_key(ec.SECP256R1())


def csr(name: Any, key: Any = None, *extensions: x509.ExtensionType, **more: Any) -> str:
    """A request for a name, or for a list of a subject's attributes."""
    key = key or new_key()
    subject = name if isinstance(name, list) else [(NameOID.COMMON_NAME, name)]
    attributes = [x509.NameAttribute(*pair, _validate=False) for pair in subject]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    for oid, value in more.get("attributes", ()):
        builder = builder.add_attribute(oid, value)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    signed = builder.sign(key, more.get("algorithm", algorithm))
    return signed.public_bytes(Encoding.PEM).decode()


def of_version(pem: str, kind: str) -> str:
    """A request, or a certificate, that says it is of a version that there is not."""
    der = bytearray(base64.b64decode("".join(pem.split("\n")[1:-2])))
    mark = b"\x02\x01\x00" if kind == "CERTIFICATE REQUEST" else b"\xa0\x03\x02\x01\x02"
    der[bytes(der).index(mark) + len(mark) - 1] = 5
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n"


def claim(keeper: Any, device: str | None = None, **terms: Any) -> str:
    """Make a claim; what a device sends of it."""
    known = {"hours": 1.0} | terms
    with keeper.registry.write("operator:tests") as write:
        (made,) = claims.create(write, claims.Terms(**known), keeper.authority.serving.id, [device])
    return made.sent


def request(token: str, name: str = "watch-1", key: Any = None) -> EnrolRequest:
    return EnrolRequest(claim=token, csr=csr(name, key))


def rotation(certificate: str, old: Any, name: str = "watch-1", new: Any = None) -> RotateRequest:
    """A rotation, signed by the old key."""
    text = csr(name, new)
    data = PURPOSE + x509.load_pem_x509_csr(text.encode()).public_bytes(Encoding.DER)
    if isinstance(old, ed25519.Ed25519PrivateKey):
        signature = old.sign(data)
    else:
        signature = old.sign(data, ec.ECDSA(hashes.SHA256()))
    return RotateRequest(
        certificate=certificate, csr=text, signature=base64.b64encode(signature).decode()
    )
