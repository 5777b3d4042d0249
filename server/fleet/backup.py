"""A fleet in one sealed file, and a fleet from it: database, CA, keys, settings and bundles.

What devices pull and send (``objects``) is left out unless asked for: it is large, and only tasks
under way need it.
"""

import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Final

from schemas.base import ConfigError
from schemas.fleet import FILE, FleetConfig, FleetFolder
from server.database import open_engine
from server.fleet import dump, secret
from server.fleet.sealed import Opener, Sealer, SealError

_DATABASE: Final = "database.jsonl"
_SECRET: Final = "secret.key"  # noqa: S105 - a name


def backup(
    folder: FleetFolder, config: FleetConfig, out: Path, passphrase: bytes, *, objects: bool
) -> int:
    """Write a backup, whole or not at all, while the fleet serves; how many rows it has.

    Raises
    ------
    OSError
    """
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("wb") as file:
            part.chmod(0o600)
            sealer = Sealer(file, passphrase)
            with tarfile.open(fileobj=sealer, mode="w|") as archive:
                # Files first: a device that comes meanwhile is then in the database and on no list.
                _files(folder, config, archive, objects=objects)
                rows = _database(folder, config, archive)
            sealer.close()
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return rows


def restore(file: Path, root: Path, passphrase: bytes, database: str | None = None) -> int:
    """Make a fleet from a backup; how many rows it has.

    Parameters
    ----------
    file : Path
    root : Path
        A folder that is not there, or empty.
    passphrase : bytes
    database : str, optional
        Another than the backup's ``fleet.toml`` names.

    Raises
    ------
    ConfigError
        Where the folder is not empty.
    SealError
        Where the file is not whole, or has another passphrase; then no folder is made.
    """
    if root.exists() and any(root.iterdir()):
        raise ConfigError(str(root), ["is not empty; name a new folder"])
    root.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.absolute().parent, prefix=".restore-") as scratch:
        part = Path(scratch) / "fleet"
        part.mkdir(mode=0o750)
        _extract(file, passphrase, part)
        folder = FleetFolder(part)
        config = _with_database(folder, database)
        with (part / _DATABASE).open("rb") as lines:
            engine = open_engine(folder.database(config))
            try:
                rows = dump.load(engine, lines)
            finally:
                engine.dispose()
        (part / _DATABASE).unlink()
        if root.exists():
            root.rmdir()
        shutil.move(part, root)
    return rows


def _extract(file: Path, passphrase: bytes, into: Path) -> None:
    with file.open("rb") as sealed:
        opener = io.BufferedReader(Opener(sealed, passphrase))
        try:
            with tarfile.open(fileobj=opener, mode="r|") as archive:
                archive.extractall(into, filter="data")
        except tarfile.TarError as error:
            raise SealError(f"{file}: {error}") from None
        while opener.read(1 << 20):  # to the last chunk: its tag says that nothing is missing
            continue
    if not (into / _DATABASE).exists() or not (into / FILE).exists():
        raise SealError(f"{file}: no backup of a fleet")


def _with_database(folder: FleetFolder, database: str | None) -> FleetConfig:
    config = folder.config()
    if database is not None:
        lines = folder.file.read_text(encoding="utf-8").splitlines()
        at = next((i for i, line in enumerate(lines) if line.startswith("database")), None)
        row = f"database = {_quoted(database)}"
        lines = [row, *lines] if at is None else [*lines[:at], row, *lines[at + 1 :]]
        folder.file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        config = folder.config()
    if config.secrets.kind == "file" and config.secrets.file != Path(_SECRET):
        secret.write_private(folder.secret(config), (folder.root / _SECRET).read_bytes())
    return config


def _quoted(text: str) -> str:
    import json

    return json.dumps(text)


def _files(
    folder: FleetFolder, config: FleetConfig, archive: tarfile.TarFile, *, objects: bool
) -> None:
    left_out = {".lock", _SECRET} | (set() if objects else {folder.objects.name})
    if "://" not in config.database:
        left_out |= {f"{config.database}{end}" for end in ("", "-wal", "-shm", "-journal")}
    for path in sorted(folder.root.iterdir()):
        if path.name not in left_out:
            archive.add(path, path.name)
    if not objects:
        archive.addfile(_entry(folder.objects.name, directory=True))
    if config.secrets.kind == "file":
        _add(archive, _SECRET, io.BytesIO(folder.secret(config).read_bytes()), 0o600)


def _database(folder: FleetFolder, config: FleetConfig, archive: tarfile.TarFile) -> int:
    engine = open_engine(folder.database(config))
    try:
        with tempfile.TemporaryFile() as lines:
            rows = dump.dump(engine, lines)
            _add(archive, _DATABASE, lines, 0o600)
    finally:
        engine.dispose()
    return rows


def _add(archive: tarfile.TarFile, name: str, data: IO[bytes], mode: int) -> None:
    entry = _entry(name)
    entry.mode, entry.size = mode, data.seek(0, io.SEEK_END)
    data.seek(0)
    archive.addfile(entry, data)


def _entry(name: str, *, directory: bool = False) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    if directory:
        entry.type, entry.mode = tarfile.DIRTYPE, 0o750
    return entry
