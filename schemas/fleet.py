"""The fleet's folder: where all that an operator's fleet consists of lies, and its file."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from schemas.address import plain
from schemas.base import ConfigError, Strict, describe
from schemas.toml_file import parsed

FILE: Final = "fleet.toml"
Port = Annotated[int, Field(ge=0, le=65_535)]
Host = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:_-]+$"),
    AfterValidator(plain),
]
Days = Annotated[float, Field(gt=0, le=36_500)]


class Server(Strict):
    """The server that devices enrol at, over HTTPS."""

    host: Host = Field("localhost", description="The name or address that devices know it by.")
    port: Port = 8443
    listen: Host = Field("0.0.0.0", description="The address that it binds.")  # noqa: S104
    names: tuple[Host, ...] = Field((), description="Further names in its certificate.")


class BrokerPlace(Strict):
    """The broker, as devices reach it; its own files lie in the folder ``broker``."""

    host: Host = Field("localhost", description="The name or address that devices know it by.")
    port: Port = 8883
    listen: Host = Field("0.0.0.0", description="The address that it binds.")  # noqa: S104
    names: tuple[Host, ...] = Field((), description="Further names in its certificate.")
    server: str = Field(
        "server", pattern=r"^[a-z0-9-]{1,63}$", description="The server's own name there."
    )
    federation: str = Field(
        "federation", pattern=r"^[a-z0-9-]{1,63}$", description="That of who trains on the fleet."
    )
    control: Port = Field(8884, description="On loopback: there the server throws sessions out.")
    connections: int = Field(20_000, ge=1, le=1_000_000, description="At once, at most.")
    audit_denied: bool = Field(
        True,
        description="Audit publishes that the access list denies. The broker then logs every "
        "packet by topic: some 100 bytes each, 10 GB a day for 10,000 devices; 32 MB stay.",
    )
    reload: tuple[str, ...] = Field(
        (), description="A command that has the broker read its lists; empty: SIGHUP to it."
    )


class Lifetimes(Strict):
    """How long certificates are good for."""

    ca_days: Days = 3650
    server_days: Days = 90
    device_days: Days = 30
    crl_hours: float = Field(72, gt=0, le=8760, description="Renewed at half of it by serve.")
    overlap_days: Days = Field(60, description="An old CA is trusted beside the new one so long.")


class Enrolling(Strict):
    """What the enrolment server takes."""

    claim_hours: float = Field(24, gt=0, le=87_600, description="Where a claim says nothing else.")
    max_body: int = Field(16_384, ge=4096, le=1 << 20, description="Bytes of a request.")
    body_seconds: float = Field(10, gt=0, le=300, description="In which a request must be here.")
    per_minute: int = Field(
        30, ge=1, le=1_000_000, description="Refused requests of an address; then it waits."
    )
    most_at_once: int = Field(64, ge=1, le=10_000, description="Connections served at a time.")


class Validation(Strict):
    """When a device whose updates are refused is quarantined."""

    failures: int = Field(3, ge=1, le=1000, description="Refused updates within window_hours.")
    window_hours: float = Field(24, gt=0, le=87_600)
    hours: float = Field(
        24, ge=0, le=87_600, description="Until it counts again by itself; 0: until it is released."
    )
    max_norm: float = Field(1e4, gt=0, description="Largest L2 norm of a change.")
    max_examples: int = Field(
        100_000, ge=1, le=1_000_000_000, description="Largest num-examples that a device may say."
    )
    max_bytes: int = Field(256 << 20, ge=1024, description="Of one answer.")
    per_minute: int = Field(
        1200, ge=10, description="Messages of a device; more is a flood. Chunks asked for are none."
    )


class Secrets(Strict):
    """What the keys in the folder are encrypted with."""

    kind: Literal["file", "passphrase"] = Field(
        "file", description="A key file, or a passphrase: FLWR_FLEET_PASSPHRASE, or asked for."
    )
    file: Path = Field(Path("secret.key"), description="Better on another disk than the folder.")


class FleetConfig(Strict):
    """The whole of ``fleet.toml``."""

    name: str = Field("fleet", pattern=r"^[a-z0-9-]{1,40}$")
    database: str = Field(
        "registry.sqlite",
        description="A file of SQLite's, or postgresql+psycopg://USER@HOST/NAME; "
        "its password better in ~/.pgpass or PGPASSWORD than here.",
    )
    server: Server = Server()
    broker: BrokerPlace = BrokerPlace()
    lifetimes: Lifetimes = Lifetimes()
    enrolment: Enrolling = Enrolling()
    validation: Validation = Validation()
    secrets: Secrets = Secrets()

    @property
    def reserved(self) -> frozenset[str]:
        """Names at the broker that no device may have."""
        own = {self.broker.server, self.broker.federation}
        return frozenset(own | {"server", "federation", "broker", "admin", "operator"})


class FleetFolder:
    """The paths of a fleet; made by ``flwr-fleet init``.

    Parameters
    ----------
    root : Path
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.file = self.root / FILE
        self.ca = self.root / "ca"  # NUMBER.pem, NUMBER.key: the last is the one that issues
        self.bundle_of_cas = self.root / "ca.pem"  # all that are trusted
        self.crl = self.root / "crl.pem"  # of all that are trusted
        self.server = self.root / "server"  # certificate.pem, key.pem; what the server shows
        self.federation = self.root / "federation"  # certificate.pem, key.pem of who trains
        self.broker = self.root / "broker"  # mosquitto.conf and what it names
        self.signing_key = self.root / "signing.key"  # Ed25519, encrypted
        self.signing_public = self.root / "signing.pub"  # 64 hexadecimal digits
        self.bundles = self.root / "bundles"  # SHA256.flwb
        self.objects = self.root / "objects"  # what devices pull and send, of roll-outs
        self.federation_objects = self.objects / "federation"  # of who trains
        self.anchor = self.root / "audit.anchor"  # heads of the audit log
        self.hearing = self.root / ".hearing"  # how serve's connection to the broker stands

    def config(self) -> FleetConfig:
        """Read and check the file.

        Raises
        ------
        ConfigError
            With a line for each thing that is wrong.
        """
        try:
            return FleetConfig.model_validate(parsed(self.file.read_bytes(), self.file))
        except FileNotFoundError:
            problem = "no fleet here; run flwr-fleet init, or name its folder with --fleet"
            raise ConfigError(str(self.file), [problem]) from None
        except OSError as error:
            raise ConfigError(str(self.file), [error.strerror or str(error)]) from None
        except ValidationError as error:
            raise ConfigError(str(self.file), describe(error.errors(), _allowed())) from None

    def database(self, config: FleetConfig) -> Path | str:
        """The database: a path in the folder, or a URL."""
        return config.database if "://" in config.database else self.root / config.database

    def secret(self, config: FleetConfig) -> Path:
        """The key file."""
        return self.root / config.secrets.file


def _allowed() -> dict[str, list[str]]:
    tables = {"": FleetConfig} | {
        name: field.annotation
        for name, field in FleetConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Strict)
    }
    return {path: list(model.model_fields) for path, model in tables.items()}
