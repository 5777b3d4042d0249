"""The daemon's configuration: one TOML file, checked whole before anything starts."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from client.conditions import ConditionsConfig
from client.files import barred, read_plain, user_name
from client.identity import Identity
from schemas.base import ConfigError, Strict, describe
from schemas.toml_file import parsed

M = TypeVar("M", bound=Strict)
DEVICE: Final = r"[a-z0-9][a-z0-9-]{0,62}"  # its name: what enrolment and the server's CSRs take
STATE: Final = Path("/var/lib/flwr-edge")
Word = Annotated[str, Field(pattern=f"^{DEVICE}$")]


def _file_name(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot have a NUL")
    return path


def host_name(host: str) -> str:
    """A host, as names of the network are made.

    Raises
    ------
    ValueError
        Where no such name can be looked up.
    """
    try:
        named = bool(host.encode("idna")) and host.isprintable() and " " not in host
    except UnicodeError:  # an empty label, or one of more than 63
        named = False
    if not named:
        raise ValueError("expected a host's name or address: labels of 1 to 63 between dots")
    return host


FileName = Annotated[Path, AfterValidator(_file_name)]
KeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Tls(Strict):
    """Certificates towards the broker, PEM files."""

    ca: FileName
    certificate: FileName | None = None
    key: FileName | None = None

    @model_validator(mode="after")
    def _both(self) -> "Tls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together; one is missing")
        return self


class Broker(Strict):
    """Where the broker is."""

    host: Annotated[str, AfterValidator(host_name)] = Field(
        "localhost", min_length=1, max_length=253
    )
    port: int | None = Field(
        None, ge=1, le=65_535, description="8883 with tls, else 1883, where left out."
    )
    username: str | None = None
    password_file: FileName | None = Field(None, description="Its first line; never in this file.")
    keepalive: int = Field(30, ge=5, le=3600, description="Seconds.")
    tls: Tls | None = None

    @property
    def number(self) -> int:
        """The port."""
        return self.port or (8883 if self.tls else 1883)


class Windows(Strict):
    """Where the person's windows come from: a folder of them, or a sensor."""

    folder: FileName | None = Field(None, description="Of .npy files as PersonWindows reads them.")
    source: str | None = Field(None, description="A sensor: one of flwr_edge.sensor_source.")
    settings: dict[str, Any] = Field(default_factory=dict, description="The sensor's own.")

    @model_validator(mode="after")
    def _one(self) -> "Windows":
        if (self.folder is None) == (self.source is None):
            raise ValueError("expected a folder of windows, or the source of a sensor: one of them")
        return self


class Model(Strict):
    """What predictions are made with, where it is not the last task's model."""

    bundle: FileName = Field(description="Looked at before each prediction: it may be replaced.")
    base: FileName | None = Field(None, description="The bundle that it is a difference from.")


class RotationConfig(Strict):
    """Of the certificate, before it expires; ``flwr-edge enroll`` writes it."""

    identity: FileName = Field(description="The folder that enrolment made.")


class Limits(Strict):
    """What the daemon may use."""

    store_bytes: int = Field(1 << 30, ge=1 << 20, description="Objects kept on disk.")
    task_seconds: float = Field(3600, gt=0, le=86_400, description="Longest work on one task.")
    idle_seconds: float = Field(
        20, ge=0, le=3600, description="Then the process that learns ends and frees its memory."
    )
    tasks: int = Field(64, ge=1, le=10_000, description="Most tasks that may wait.")
    attempts: int = Field(
        5, ge=1, le=100, description="Starts of one task, power cuts counted; then it failed."
    )
    bundle_bytes: int = Field(64 << 20, ge=1 << 10, description="Of the largest bundle taken.")
    runs: int = Field(4, ge=1, le=1000, description="Runs whose kept arrays stay on the device.")


class DaemonConfig(Strict):
    """The whole file."""

    device: Word
    state: FileName = Field(STATE, description="Folder of all that is durable.")
    number: int | None = Field(
        None, ge=0, description="Orders the batches; the node id where left out."
    )
    fleet_key: KeyHex | None = Field(
        None, description="Ed25519 public key, hex: then unsigned tasks are refused."
    )
    broker: Broker = Broker()
    windows: Windows
    model: Model | None = None
    conditions: ConditionsConfig = ConditionsConfig()
    limits: Limits = Limits()
    rotation: RotationConfig | None = None

    @classmethod
    def load(cls, path: Path, base: Path | None = None) -> "DaemonConfig":
        """Read and check a file; relative paths in it start at ``base``, else at its folder.

        Raises
        ------
        ConfigError
            With a line for each thing that is wrong.
        """
        try:
            table = parsed(read_plain(path), path)
        except OSError as error:
            raise ConfigError(str(path), [error.strerror or str(error)]) from None
        try:
            return cls.model_validate(table)._from(base or path.absolute().parent)
        except ValidationError as error:
            raise ConfigError(str(path), describe(error.errors(), _allowed())) from None

    def _from(self, base: Path) -> "DaemonConfig":
        return _rebased(self, base)

    def missing(self) -> list[str]:
        """What is named and not there, or not as the sensor wants it, a line each."""
        tls = self.broker.tls
        named = {
            "windows.folder": self.windows.folder,
            "model.bundle": self.model and self.model.bundle,
            "model.base": self.model and self.model.base,
            "broker.password_file": self.broker.password_file,
            "broker.tls.ca": tls and tls.ca,
            "broker.tls.certificate": tls and tls.certificate,
            "broker.tls.key": tls and tls.key,
            "rotation.identity": self.rotation and self.rotation.identity,
        }
        lacking = [
            f"{key}: {problem}"
            for key, path in named.items()
            if path and (problem := _unreadable(path))
        ]
        if self.fleet_key is not None and find_spec("cryptography") is None:
            needs = "needs the package cryptography: pip install 'flwr-edge[signed]'"
            lacking.append(f"fleet_key: {needs}")
        problems = lacking + self._folder_problems() + self._sensor_problems()
        return problems if lacking else problems + self._tls_problems()

    def _folder_problems(self) -> list[str]:
        """Of what is there, and is not what it should be."""
        folders = {"state": self.state, "windows.folder": self.windows.folder}
        wrong = [
            f"{key}: {path} is no folder"
            for key, path in folders.items()
            if path and path.exists() and not path.is_dir()
        ]
        root = self.rotation and self.rotation.identity
        if root and root.exists() and not Identity(root).exists():
            wrong.append(f"rotation.identity: no identity in {root}; flwr-edge enroll makes one")
        if wrong:
            return wrong
        written = {"state": self.state, "rotation.identity": root}
        return [
            f"{key}: {user_name()} cannot write to {there}"
            for key, path in written.items()
            if path and (there := barred(path))
        ]

    def _tls_problems(self) -> list[str]:
        tls = self.broker.tls
        if tls is None:
            return []
        from schemas.link_base import TlsFiles
        from schemas.link_tls import context_of

        try:
            context_of(TlsFiles(tls.ca, tls.certificate, tls.key))
        except OSError as error:
            return [f"broker.tls: {error}"]
        return []

    def _sensor_problems(self) -> list[str]:
        if self.windows.source is None:
            return []
        from client.sources.gather import checked_settings, ready, source_class

        try:
            ready(checked_settings(source_class(self.windows.source), self.windows.settings))
        except ConfigError as error:
            return [f"{error.where}: {problem}" for problem in error.problems]
        return []


def _unreadable(path: Path) -> str | None:
    if not path.exists():
        return f"no {path}"
    return None if os.access(path, os.R_OK) else f"{user_name()} cannot read {path}"


def _rebased(model: M, base: Path) -> M:
    changed: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            changed[name] = base / value
        elif isinstance(value, Strict):
            changed[name] = _rebased(value, base)
    return model.model_copy(update=changed)


def _allowed() -> dict[str, list[str]]:
    tables: dict[str, type[Strict]] = {
        "": DaemonConfig,
        "broker": Broker,
        "broker.tls": Tls,
        "windows": Windows,
        "model": Model,
        "limits": Limits,
        "rotation": RotationConfig,
        "conditions": ConditionsConfig,
    }
    return {path: list(model.model_fields) for path, model in tables.items()}
