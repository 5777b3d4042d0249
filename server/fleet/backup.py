"""A fleet in one sealed file, and a fleet from it: database, CA, keys, settings and bundles.

What devices pull and send (``objects``) is left out unless asked for: it is large, and only tasks
under way need it.
"""

import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from sqlalchemy import Engine

from schemas.base import ConfigError
from schemas.fleet import FILE, FleetConfig, FleetFolder
from schemas.new_file import NewFile
from schemas.toml_file import quoted
from server.database import open_engine
from server.fleet import dump, secret
from server.fleet.folder_files import lasting
from server.fleet.sealed import MAGIC, Opener, Sealer, SealError

_DATABASE: Final = "database.jsonl"
_SECRET: Final = "secret.key"  # noqa: S105 - a name
_KEY: Final = re.compile(r"\s*database\s*=")  # in fleet.toml


def backup(
    folder: FleetFolder, config: FleetConfig, out: Path, passphrase: bytes, *, objects: bool
) -> int:
    """Write a backup, whole or not at all, while the fleet serves; how many rows it has.

    Raises
    ------
    OSError
    Refusal
        Where the database is none of this release or an earlier one.
    """
    engine = open_engine(folder.database(config))
    try:
        with engine.connect() as connection:
            dump.check(connection)
        with NewFile(out, private=True) as file:
            sealer = Sealer(file, passphrase)
            with tarfile.open(fileobj=sealer, mode="w|") as archive:
                # Files first: a device that comes meanwhile is then in the database and on no list.
                _files(archive, folder, config, _sqlite(engine), objects=objects)
                rows = _database(archive, engine)
            sealer.close()
    finally:
        engine.dispose()
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
        Where the folder is not empty, or ``secrets.file`` names a place that another key has.
    SealError
        Where the file is not whole, or has another passphrase; then no folder is made.
    """
    if root.exists() and any(root.iterdir()):
        raise ConfigError(str(root), ["is not empty; name a new folder"])
    root = root.resolve()
    root.parent.mkdir(parents=True, exist_ok=True)
    with _unpacked(file, passphrase, root.parent) as part:
        config = _with_database(FleetFolder(part), database)
        where = FleetFolder(root).database(config)
        with _secret_placed(config, root, part):
            rows = _load(part, where if isinstance(where, str) else _for_now(where, root, part))
            if root.exists():
                root.rmdir()
            shutil.move(part, root)
    return rows


def check(file: Path, passphrase: bytes) -> int:
    """How many rows a backup has; all of it is read, into a scratch folder and nowhere else.

    Raises
    ------
    SealError
        Where the file is not whole, or has another passphrase.
    """
    with _unpacked(file, passphrase, None) as part:
        FleetFolder(part).config()
        return _load(part, part.with_name("rows.sqlite"))


@contextmanager
def _unpacked(file: Path, passphrase: bytes, beside: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=beside, prefix=".restore-") as scratch:
        part = Path(scratch) / "fleet"
        part.mkdir(mode=0o750)
        _extract(file, passphrase, part)
        yield part


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
        at = next((i for i, line in enumerate(lines) if _KEY.match(line)), None)
        row = f"database = {quoted(database)}"
        lines = [row, *lines] if at is None else [*lines[:at], row, *lines[at + 1 :]]
        folder.file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        config = folder.config()
    return config


def _for_now(path: Path, root: Path, part: Path) -> Path:
    """Where to write, before ``part`` becomes ``root``, what is to lie at ``path`` then."""
    path = path.resolve()  # it may lead out of the folder
    return part / path.relative_to(root) if path.is_relative_to(root) else path


@contextmanager
def _secret_placed(config: FleetConfig, root: Path, part: Path) -> Iterator[None]:
    """Put the key file where it belongs, and away again where the rest fails."""
    packed, place = part / _SECRET, _for_now(FleetFolder(root).secret(config), root, part)
    if config.secrets.kind != "file" or place == packed:
        yield
        return
    if place.is_relative_to(part):
        place.parent.mkdir(parents=True, exist_ok=True)
    new = _is_free(place, packed.read_bytes())
    if new:
        secret.write_private(place, packed.read_bytes())
    packed.unlink()  # not beside the keys that it opens
    try:
        yield
    except BaseException:
        if new:
            place.unlink(missing_ok=True)
        raise


def _is_free(place: Path, data: bytes) -> bool:
    named = "the backup's secrets.file names it"
    if not place.parent.is_dir():
        problem = f"no folder {place.parent} here, and {named}; mount or make it"
        raise ConfigError(str(place), [problem])
    if not place.exists():
        return True
    if place.read_bytes() != data:
        problem = f"holds another key, and {named}; move it away, or restore on another machine"
        raise ConfigError(str(place), [problem])
    return False


def _load(part: Path, database: Path | str) -> int:
    engine = open_engine(database)
    try:
        with (part / _DATABASE).open("rb") as lines:
            rows = dump.load(engine, lines)
    finally:
        engine.dispose()
    (part / _DATABASE).unlink()
    return rows


def _sqlite(engine: Engine) -> set[Path]:
    """The database's own files, which change all the time: a backup has its rows."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return set()
    path = Path(engine.url.database).resolve()
    return {path.with_name(path.name + end) for end in ("", "-wal", "-shm", "-journal")}


def _files(
    archive: tarfile.TarFile,
    folder: FleetFolder,
    config: FleetConfig,
    database: set[Path],
    *,
    objects: bool,
) -> None:
    secrets = {(folder.root / _SECRET).resolve(), folder.secret(config).resolve()}
    left_out = database | secrets | (set() if objects else {folder.objects.resolve()})
    for path in lasting(folder.root, left_out):
        _add_file(archive, path, str(path.relative_to(folder.root)))
    if not objects:
        archive.addfile(_entry(folder.objects.name, directory=True))
    if config.secrets.kind == "file":
        _add(archive, _SECRET, io.BytesIO(folder.secret(config).read_bytes()), 0o600)


def _add_file(archive: tarfile.TarFile, path: Path, name: str) -> None:
    """Add what is there; a file that was removed since it was listed is no fault.

    Backups that lie in the folder are left out: each would hold those before it, and double.
    """
    try:
        if path.is_symlink() or not path.is_file():
            entry = archive.gettarinfo(path, name)
            if entry is not None:  # a socket
                archive.addfile(entry)
            return
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return
            file.seek(0)
            archive.addfile(archive.gettarinfo(None, name, file), file)
    except FileNotFoundError:
        return


def _database(archive: tarfile.TarFile, engine: Engine) -> int:
    with tempfile.TemporaryFile() as lines:
        rows = dump.dump(engine, lines)
        _add(archive, _DATABASE, lines, 0o600)
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
