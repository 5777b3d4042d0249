"""Takes a bundle apart and puts it together again, wrong: with any manifest, and signed anew."""

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from schemas.bundle import signed_bytes
from schemas.signing import public_hex, sign

HEADER = struct.Struct("<8sIII")


@dataclass
class Anatomy:
    """A bundle's pieces, all of which may be changed."""

    manifest: dict[str, Any]
    stored: list[bytes]
    signature: bytes = b""
    magic: bytes = b"FLWRBNDL"
    format: int = 1
    lengths: dict[str, int] = field(default_factory=dict)  # that the header claims
    text: bytes | None = None  # of the manifest, where it is not to be written anew
    after: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> "Anatomy":
        _, _, length, signed = HEADER.unpack_from(data)
        at = HEADER.size + length
        manifest = json.loads(data[HEADER.size : at])
        signature, at = data[at : at + signed], at + signed
        stored = []
        for part in manifest["parts"]:
            stored.append(data[at : at + part["stored"]])
            at += part["stored"]
        assert at == len(data)
        return cls(manifest, stored, signature)

    def borders(self) -> list[int]:
        """Offsets at which something ends, the file's end left out."""
        at = [8, 12, 16, HEADER.size]
        for piece in (self.written(), self.signature, *self.stored):
            at.append(at[-1] + len(piece))
        return at[:-1]

    def written(self) -> bytes:
        if self.text is not None:
            return self.text
        return json.dumps(self.manifest, sort_keys=True, separators=(",", ":")).encode()

    def part(self, name: str) -> dict[str, Any]:
        return next(part for part in self.manifest["parts"] if part["name"] == name)

    def replace(self, name: str, data: bytes, coding: str = "raw") -> None:
        """Put other bytes in a part, and say so in the manifest, truly."""
        stored = data if coding == "raw" else zlib.compress(data, 9)
        self.store(name, stored, len(data), hashlib.sha256(data).hexdigest(), coding)

    def store(self, name: str, stored: bytes, size: int, sha256: str, coding: str) -> None:
        """Put stored bytes in a part, and claim what they restore to."""
        at = [part["name"] for part in self.manifest["parts"]].index(name)
        self.stored[at] = stored
        self.manifest["parts"][at].update(
            bytes=size,
            sha256=sha256,
            coding=coding,
            stored=len(stored),
            stored_sha256=hashlib.sha256(stored).hexdigest(),
        )

    def bytes(self, key: Any = None) -> bytes:
        """The file; signed by a key, where one is given, else with the signature that it has."""
        if key is not None and self.manifest.get("signer") is not None:
            self.manifest["signer"] = public_hex(key)
        text = self.written()
        if key is not None:
            self.signature = bytes.fromhex(sign(key, signed_bytes(text)))
        lengths = {"manifest": len(text), "signature": len(self.signature), **self.lengths}
        header = HEADER.pack(self.magic, self.format, lengths["manifest"], lengths["signature"])
        return b"".join([header, text, self.signature, *self.stored, self.after])
