"""``flwr-fleet init``: a fleet's folder, from nothing, or what is missing of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import Engine, inspect, select

from schemas.base import ConfigError
from schemas.fleet import FleetConfig, FleetFolder
from schemas.signing import new_key, public_hex
from schemas.toml_file import quoted
from server.database import open_engine
from server.fleet import secret
from server.fleet.authority import Authority, encrypted_key
from server.fleet.keeper import Keeper
from server.fleet.registry import Audit, Certificate, Registry

_HEAD = """\
# A fleet of flwr-edge. Every key has a default; `flwr-fleet init --help` and schemas/fleet.py say
# which there are. `flwr-fleet serve` reads it at its start: start it again after a change.
"""


def create(folder: FleetFolder, config: FleetConfig, say: Callable[[str], None]) -> None:
    """Make a fleet; what is there stays, so that it can be run again after it was interrupted.

    Raises
    ------
    ConfigError
        Where the folder holds something else, or keys that the secret does not open, or where the
        database is another fleet's.
    """
    _must_be_ours(folder, folder.config() if folder.file.exists() else config)
    _folder(folder)
    if not folder.file.exists():
        secret.write(folder.file, f"{_HEAD}\n{_toml(config)}".encode(), 0o640)
        say(f"wrote {folder.file}")
    elif folder.config() != config:
        say(f"kept {folder.file} as it is; what it says counts, so edit it to change it")
    config = folder.config()
    key = _secret(folder, config, say)
    with Registry(folder.database(config), create=True) as registry:
        say("database: up to date")
        authority = _authority(folder, config, key, say)
        _signing(folder, key, say)
        keeper = Keeper(folder, config, registry, authority)
        keeper.renew_services()
        keeper.publish()
        with registry.write("server") as write:
            write.audit("fleet.init", config.name, ca=authority.newest.id)
        keeper.note()


def signing_key(folder: FleetFolder, key: bytes) -> Any:
    """The fleet's signing key, decrypted.

    Raises
    ------
    ConfigError
        Where it cannot be.
    """
    try:
        return load_pem_private_key(folder.signing_key.read_bytes(), key)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(str(folder.signing_key), [str(error)]) from None


def _must_be_ours(folder: FleetFolder, config: FleetConfig) -> None:
    """Refuse a registry of another CA, before anything is made: two fleets would mix in it."""
    where = folder.database(config)
    if isinstance(where, Path) and not where.exists():
        return
    engine = open_engine(where)
    try:
        theirs = _cas_of(engine)
        shown = engine.url.render_as_string(hide_password=True)
    finally:
        engine.dispose()
    if theirs and not theirs & _cas(folder):
        problem = f"holds the registry of another fleet, whose CA is {min(theirs)}"
        hint = f"name a new database, or bring {folder.ca} back from that fleet's backup"
        raise ConfigError(shown, [f"{problem}; {hint}"])


def _cas_of(engine: Engine) -> set[str]:
    """The CAs that a registry knows, by its certificates and its audit log."""
    with engine.connect() as connection:
        there = inspect(connection)
        if not all(there.has_table(table.__tablename__) for table in (Certificate, Audit)):
            return set()
        made = connection.scalars(select(Audit.detail).where(Audit.action == "fleet.init"))
        named = {str(json.loads(detail).get("ca")) for detail in made}
        return named | set(connection.scalars(select(Certificate.issuer).distinct()))


def _cas(folder: FleetFolder) -> set[str]:
    found = [x509.load_pem_x509_certificate(path.read_bytes()) for path in folder.ca.glob("*.pem")]
    return {one.fingerprint(hashes.SHA256()).hex() for one in found}


def _folder(folder: FleetFolder) -> None:
    """Make the folders; what a run leaves that ended before ``fleet.toml`` is no stranger's."""
    own = (folder.broker, folder.bundles, folder.objects)
    begun = folder.root.exists() and not folder.file.exists()
    there = folder.root.iterdir() if begun else ()
    others = sorted(path.name for path in there if path not in own or any(path.iterdir()))
    if others:
        problem = f"holds {', '.join(others[:3])}, and no fleet; name an empty folder"
        raise ConfigError(str(folder.root), [problem])
    folder.root.mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in own:
        path.mkdir(mode=0o750, exist_ok=True)


def _secret(folder: FleetFolder, config: FleetConfig, say: Callable[[str], None]) -> bytes:
    """What opens the keys that are there; made only where there is none: another opens none."""
    keys = [path for path in (*folder.ca.glob("*.key"), folder.signing_key) if path.exists()]
    path, file = folder.secret(config), config.secrets.kind == "file"
    if keys and file and not path.exists():
        problem = f"is missing, and {keys[0]} is encrypted with it; bring it back from a backup"
        raise ConfigError(str(path), [problem])
    if keys or (file and path.exists()):
        key = secret.load(folder, config)
        _must_open(keys, key)
        return key
    key = secret.make(folder, config)
    if file:
        say(f"made {path}: what decrypts the keys; keep a copy elsewhere")
    return key


def _must_open(keys: list[Path], key: bytes) -> None:
    """Refuse a secret that opens no key, before more of them are encrypted with it."""
    wrong = ""
    for path in keys:
        try:
            load_pem_private_key(path.read_bytes(), key)
        except (OSError, ValueError, TypeError) as error:
            wrong = wrong or str(error)
        else:
            return
    if keys:
        hint = "is the key file or passphrase the one it was encrypted with?"
        raise ConfigError(str(keys[0]), [f"{wrong}; {hint}"])


def _authority(
    folder: FleetFolder, config: FleetConfig, key: bytes, say: Callable[[str], None]
) -> Authority:
    if folder.ca.exists() and any(folder.ca.glob("*.pem")):
        return Authority(folder, config.lifetimes, key)
    made = Authority.create(folder, config.lifetimes, key, config.name)
    say(f"made the fleet's CA, SHA-256 {made.newest.id}")
    return made


def _signing(folder: FleetFolder, key: bytes, say: Callable[[str], None]) -> None:
    if not folder.signing_key.exists():
        folder.signing_public.unlink(missing_ok=True)  # of a key that is lost
        private = new_key()
        encrypted_key(folder.signing_key, private, key)
        say(f"made the fleet's signing key {public_hex(private)}")
    if not folder.signing_public.exists():
        public = public_hex(signing_key(folder, key))
        secret.write(folder.signing_public, f"{public}\n".encode())
        say(f"wrote {folder.signing_public}")


def _toml(config: FleetConfig) -> str:
    lines, tables = [], []
    for key, value in config.model_dump(mode="json", exclude_none=True).items():
        if isinstance(value, dict):
            rows = "".join(f"{name} = {_value(one)}\n" for name, one in value.items())
            tables.append(f"\n[{key}]\n{rows}")
        else:
            lines.append(f"{key} = {_value(value)}\n")
    return "".join(lines + tables)


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return quoted(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
