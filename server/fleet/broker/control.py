"""A hand on the running broker: it reads its lists again, and sessions are thrown out.

Mosquitto reads access list, revocation list, CAs and certificates again on SIGHUP, and applies the
new access list to the sessions that there are; it does not end them. A session ends when another
client takes its client id over, with a clean start: what was queued for it is gone then too.

Mosquitto 2.0.11 keeps a session whose client is away twice in its list of those that expire, once
it has read its lists again; when the client comes back or is thrown out, one entry is left, of
freed memory, and sooner or later the broker crashes. So our clients keep no session.
"""

import datetime as dt
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from schemas.fleet import FleetConfig, FleetFolder
from schemas.wire import topic
from server.fleet.broker.access import LISTS
from server.fleet.broker.settings import CONTROL, LOOPBACK
from server.fleet.secret import write, write_private

_PATIENCE: Final = 10.0  # seconds that the broker has to answer
_AT_ONCE: Final = 6  # sessions thrown out side by side
_YEARS: Final = 20


class BrokerError(RuntimeError):
    """The broker cannot be reached, or did not do what it was told."""


def make_control(folder: FleetFolder) -> None:
    """Make the certificate and key of the control listener's one client, where there are none."""
    key_file = folder.server / "control.key"
    if key_file.exists() and (folder.broker / "control.pem").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CONTROL)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=10))
        .not_valid_after(now + dt.timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(key_file, plain)
    write(folder.broker / "control.pem", made.public_bytes(Encoding.PEM))


class Control:
    """Of one fleet's broker.

    Parameters
    ----------
    folder : FleetFolder
    config : FleetConfig

    Raises
    ------
    OSError
        Where a certificate is not there.
    """

    def __init__(self, folder: FleetFolder, config: FleetConfig) -> None:
        self._folder, self._config = folder, config
        self._port = config.broker.control
        self._tls = ssl.create_default_context(cafile=str(folder.bundle_of_cas))
        self._tls.load_cert_chain(folder.broker / "control.pem", folder.server / "control.key")

    def reload(self, digest: str) -> float:
        """Have the broker read its lists again; the seconds until it went by those of the digest.

        Raises
        ------
        BrokerError
            Where it cannot be told, or does not.
        """
        began = time.monotonic()
        self.signal()
        with self._connected(CONTROL) as client:
            while not self._proved(client, digest):
                if time.monotonic() - began > _PATIENCE:
                    raise BrokerError(
                        f"the broker was told to read its lists again, and after {_PATIENCE:g} s "
                        "goes by older ones; does its log say why?"
                    )
                time.sleep(0.01)
        return time.monotonic() - began

    def signal(self) -> None:
        """Tell the broker to read its lists, and to open its log, again.

        Raises
        ------
        BrokerError
            Where it cannot be told.
        """
        command = self._config.broker.reload
        if command:
            self._wait_for_loop()
            try:
                subprocess.run(command, check=True, timeout=_PATIENCE, capture_output=True)  # noqa: S603 - the operator's own
            except (OSError, subprocess.SubprocessError) as error:
                raise BrokerError(f"broker.reload: {error}{_own_words(error)}") from None
            return
        file = self._folder.broker / "mosquitto.pid"
        number = pid(file)
        if number is None:
            raise BrokerError(
                f"no broker runs by {file}: the lists are written, and in force once it is started"
            )
        self._wait_for_loop()
        try:
            os.kill(number, signal.SIGHUP)
        except PermissionError:
            raise BrokerError(
                f"the broker (process {number}) is another account's; run it as this one, or name "
                "a command in fleet.toml, as in broker.reload = ['systemctl', 'reload', …]"
            ) from None

    def _wait_for_loop(self) -> None:
        """Wait until the broker's loop turns: before that, as it listens already, SIGHUP ends it.

        Whatever answers a handshake will do, also that its certificate has expired: to read
        another is what the signal is for.
        """
        try:
            with (
                socket.create_connection((LOOPBACK, self._port), _PATIENCE) as plain,
                self._tls.wrap_socket(plain, server_hostname=LOOPBACK),
            ):
                return
        except (ssl.SSLError, ConnectionResetError):
            return
        except OSError as error:
            raise BrokerError(f"broker at {LOOPBACK}:{self._port} (control): {error}") from None

    def loaded(self, digest: str) -> bool:
        """Whether the broker goes by the lists of a digest."""
        with self._connected(CONTROL) as client:
            return self._proved(client, digest)

    def throw_out(self, names: Iterable[str]) -> None:
        """End sessions, live or kept, with all that is queued for them; clear what they retained.

        Raises
        ------
        BrokerError
            Where the broker cannot be reached.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._throw_out, names))

    def _throw_out(self, name: str) -> None:
        with self._connected(name) as client:
            _publish(client, topic(name, "state"), retain=True)

    def _proved(self, client: Client, digest: str) -> bool:
        return _publish(client, LISTS + digest)

    @contextmanager
    def _connected(self, client_id: str) -> Iterator[Client]:
        """A connection with a clean session that takes over whoever has the client id."""
        client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        client.tls_set_context(self._tls)
        greeted: list[Any] = []
        client.on_connect = lambda _client, _data, _flags, code, _more: greeted.append(code)
        try:
            client.connect(LOOPBACK, self._port, clean_start=True)
            _turn(client, greeted)
        except OSError as error:
            client.disconnect()
            raise BrokerError(f"broker at {LOOPBACK}:{self._port} (control): {error}") from None
        if greeted[0].is_failure:
            raise BrokerError(f"broker at {LOOPBACK}:{self._port} (control): {greeted[0]}")
        try:
            yield client
        finally:
            client.disconnect()
            client.loop(0.01)


def _own_words(error: Exception) -> str:
    """What a command said last; systemctl, say, knows why it did not."""
    said = getattr(error, "stderr", None) or b""
    lines = said.decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def pid(file: Path) -> int | None:
    """The process that a file names, where it is alive and Mosquitto; else None."""
    try:
        number = int(file.read_text())
        name = Path(f"/proc/{number}/comm").read_text().strip()
    except (OSError, ValueError):
        return None
    return number if name.startswith("mosquitto") else None


def _publish(client: Client, where: str, *, retain: bool = False) -> bool:
    """Publish an empty message; whether the broker allowed it."""
    codes: list[Any] = []
    client.on_publish = lambda _client, _data, _mid, code, _more: codes.append(code)
    client.publish(where, b"", 1, retain)
    _turn(client, codes)
    return not codes[0].is_failure


def _turn(client: Client, until: list[Any]) -> None:
    end = time.monotonic() + _PATIENCE
    while not until:
        if client.loop(0.05) or time.monotonic() > end:
            raise BrokerError("the broker ended the connection of the control user, or hangs")
