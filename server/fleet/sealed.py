"""A file that only a passphrase opens, written and read as a stream.

``FLWRSEAL``, a version byte, 16 bytes of salt, 7 of nonce; then chunks of AES-256-GCM, each 1 MiB
of plain text but the last. A chunk's nonce ends in its number and in whether it is the last (the
STREAM construction), so that no chunk can be dropped, doubled or moved, nor the end cut off. The
key is the passphrase's scrypt (n = 2¹⁵, r = 8, p = 1).
"""

import io
import os
from typing import IO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

MAGIC: Final = b"FLWRSEAL\x01"
_CHUNK: Final = 1 << 20
_TAG: Final = 16
_WORK: Final = 2**15
_SALT, _NONCE = 16, 7


class SealError(RuntimeError):
    """A file that is none, was changed, or has another passphrase."""


class Sealer(io.RawIOBase):
    """Encrypts what is written to it; ``close`` writes the last chunk."""

    def __init__(self, out: IO[bytes], passphrase: bytes) -> None:
        salt, self._nonce = os.urandom(_SALT), os.urandom(_NONCE)
        self._out, self._cipher = out, _cipher(passphrase, salt)
        self._rest, self._number = bytearray(), 0
        out.write(MAGIC + salt + self._nonce)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: object) -> int:
        """Take bytes."""
        taken = bytes(data)  # type: ignore[call-overload]
        self._rest += taken
        while len(self._rest) > _CHUNK:  # the last chunk is never written here
            self._chunk(bytes(self._rest[:_CHUNK]), last=False)
            del self._rest[:_CHUNK]
        return len(taken)

    def close(self) -> None:
        """Write what is left, as the last chunk."""
        if not self.closed:
            self._chunk(bytes(self._rest), last=True)
            super().close()

    def _chunk(self, data: bytes, *, last: bool) -> None:
        nonce = _nonce(self._nonce, self._number, last=last)
        self._out.write(self._cipher.encrypt(nonce, data, None))
        self._number += 1


class Opener(io.RawIOBase):
    """Decrypts what is read from it; nothing is given out that was not checked.

    Raises
    ------
    SealError
        Here and in ``read``.
    """

    def __init__(self, file: IO[bytes], passphrase: bytes) -> None:
        head = file.read(len(MAGIC) + _SALT + _NONCE)
        if len(head) < len(MAGIC) + _SALT + _NONCE or not head.startswith(MAGIC):
            raise SealError("no sealed file of this version")
        salt = head[len(MAGIC) : len(MAGIC) + _SALT]
        self._nonce = head[len(MAGIC) + _SALT :]
        self._file, self._cipher = file, _cipher(passphrase, salt)
        self._ahead = file.read(_CHUNK + _TAG)
        self._plain, self._number, self._over = b"", 0, False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Give bytes."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        while not self._plain and not self._over:
            self._next()
        count = min(len(view), len(self._plain))
        view[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _next(self) -> None:
        sealed, self._ahead = self._ahead, self._file.read(_CHUNK + _TAG)
        self._over = not self._ahead
        nonce = _nonce(self._nonce, self._number, last=self._over)
        try:
            self._plain = self._cipher.decrypt(nonce, sealed, None)
        except (InvalidTag, ValueError):
            what = "another passphrase, or changed" if not self._number else "changed or cut off"
            raise SealError(f"chunk {self._number}: {what}") from None
        self._number += 1


def _cipher(passphrase: bytes, salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt, 32, _WORK, 8, 1).derive(passphrase))


def _nonce(start: bytes, number: int, *, last: bool) -> bytes:
    return start + number.to_bytes(4, "big") + bytes([last])
