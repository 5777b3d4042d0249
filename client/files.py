"""Files of which a power cut leaves the old one or the new."""

import hashlib
import os
import tempfile
from pathlib import Path

from schemas.incoming import sync_folder


def is_whole(path: Path, sha256: str) -> bool:
    """Whether a file is there and has the bytes that its name says."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, and on the disk; others may write the same meanwhile."""
    with tempfile.TemporaryDirectory(dir=path.parent) as part:
        whole = Path(part) / "whole"
        whole.write_bytes(data)
        with whole.open("rb") as file:
            os.fsync(file.fileno())
        whole.replace(path)
    sync_folder(path.parent)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all, and on the disk."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
