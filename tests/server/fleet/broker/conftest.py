"""A fleet whose Mosquitto runs by the configuration that ``broker config`` writes."""

import contextlib
import datetime as dt
import json
import shutil
import socket
import ssl
import subprocess
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from schemas.fleet import FleetFolder
from schemas.link import PahoLink, TlsFiles
from server.fleet import devices, secret
from server.fleet.authority import Authority
from server.fleet.broker.control import make_control, pid
from server.fleet.broker.lists import write_lists
from server.fleet.broker.settings import configuration
from server.fleet.enrolment import Registrar
from server.fleet.hooks import Changes
from server.fleet.keeper import Keeper
from server.fleet.registry import Registry
from tests.mosquitto import free_port, program
from tests.server.fleet.requests import claim, new_key, request


class Peer:
    """A client of the broker that notes what it hears and is answered.

    ``kept``: it asks for a session, against the protocol.
    """

    def __init__(self, port, files, client_id, *, kept=False, will=None):
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        self.greeted, self.ended, self.heard, self.codes = [], [], [], {}
        self.client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        text = [None if each is None else str(each) for each in files]
        self.client.tls_set(*text)
        self.client.on_connect = lambda _c, _d, *said: self.greeted.append(said)
        self.client.on_disconnect = lambda _c, _d, _f, code, _p: self.ended.append(str(code))
        self.client.on_message = lambda _c, _d, m: self.heard.append((m.topic, bytes(m.payload)))
        self.client.on_publish = lambda _c, _d, mid, code, _p: self.codes.update({mid: str(code)})
        if will is not None:
            self.client.will_set(*will)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600 if kept else 0
        self.client.connect("127.0.0.1", port, 30, clean_start=not kept, properties=session)
        self.client.loop_start()
        wait(lambda: self.greeted or self.ended)

    @property
    def up(self):
        return bool(self.greeted) and not self.greeted[0][1].is_failure and not self.ended

    def say(self, topic, payload=b"x", retain=False):
        """Publish; the broker's answer in words."""
        info = self.client.publish(topic, payload, 1, retain)
        wait(lambda: info.mid in self.codes or self.ended)
        return self.codes.get(info.mid, "ended")

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class Place:
    """A fleet, its broker's process, and who is connected."""

    def __init__(self, keeper):
        self.keeper, self.folder, self.config = keeper, keeper.folder, keeper.config
        self.registrar = Registrar(keeper.registry, keeper.authority, keeper.config, "ab" * 32)
        self.peers, self.process, self.root = [], None, keeper.folder.root.parent

    def start(self):
        make_control(self.folder)
        (self.folder.broker / "mosquitto.conf").write_text(configuration(self.folder, self.config))
        write_lists(self.folder, self.config)
        with (self.root / "broker.log").open("ab") as log:
            conf = self.folder.broker / "mosquitto.conf"
            self.process = subprocess.Popen([program(), "-c", conf], stdout=log, stderr=log)
        assert wait(lambda: self.begun() or self.process.poll() is not None), self.log()
        assert self.process.poll() is None, self.log()

    def stop(self):
        for peer in self.peers:
            peer.close()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def begun(self):
        """Whether it is this broker that listens, on both of its ports."""
        own = pid(self.folder.broker / "mosquitto.pid") == self.process.pid
        return own and self.listens() and self.listens(self.config.broker.control)

    def listens(self, port=None):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port or self.config.broker.port)) == 0

    def refused(self, files, client_id):
        """Whether the broker, which listens, ends a connection before it greets."""
        assert wait(self.listens), self.log()[-2000:]
        try:
            peer = self.connect(files, client_id)
        except (ssl.SSLError, ConnectionResetError):
            return True
        return not peer.greeted and bool(peer.ended)

    def log(self):
        """What it said: before it had read its configuration, and in its file."""
        file = self.folder.broker / "mosquitto.log"
        files = (self.root / "broker.log", file.with_suffix(".log.1"), file)
        return "".join(each.read_text(errors="replace") for each in files if each.exists())

    def enrol(self, name, **terms):
        """Enrol a device; its CA, certificate and key, as files."""
        key = new_key()
        token = claim(self.keeper, name, **terms)
        reply = self.registrar.enrol(request(token, name, key), "10.0.0.1")
        return self._files(name, reply.certificate, key)

    def forged(self, name, issuer=None, start=-1.0, end=1.0):
        """Files of a certificate of another CA, or of the fleet's at another time."""
        key = new_key()
        ca = self.keeper.authority.newest
        signer = self.keeper.authority._key(ca) if issuer is None else issuer
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder(ca.certificate.subject, subject, key.public_key(), 7)
            .not_valid_before(now + dt.timedelta(days=start))
            .not_valid_after(now + dt.timedelta(days=end))
            .sign(signer, hashes.SHA256())
        )
        return self._files(f"{name}-forged", made.public_bytes(Encoding.PEM).decode(), key)

    def _files(self, name, certificate, key):
        where = self.root / name
        where.mkdir(exist_ok=True)
        (where / "certificate.pem").write_text(certificate)
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (where / "key.pem").write_bytes(plain)
        return self.folder.bundle_of_cas, where / "certificate.pem", where / "key.pem"

    def server(self):
        own = self.folder.server
        files = (self.folder.bundle_of_cas, own / "certificate.pem", own / "key.pem")
        return self.connect(files, "server")

    def connect(self, files, client_id, **options):
        peer = Peer(self.config.broker.port, files, client_id, **options)
        self.peers.append(peer)
        return peer

    def link(self, client_id, files, **options):
        return PahoLink(
            "127.0.0.1", self.config.broker.port, client_id, tls=TlsFiles(*files), **options
        )

    def revoke(self, *names):
        with self.keeper.registry.write("operator:tests") as write:
            devices.revoke(write, names, "a test")
        return self.keeper.apply(Changes(revoked=names))


def wait(until, seconds=30.0):
    """Wait until something is so; whether it is."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.01)
    return until()


def other_ca():
    """A key that the fleet's CA has not."""
    return ec.generate_private_key(ec.SECP256R1())


@contextlib.contextmanager
def placed(made, root, database):
    """A fleet on a database, with its broker running."""
    if program() is None:
        pytest.skip("mosquitto is not installed")
    folder = FleetFolder(root / "fleet")
    shutil.copytree(made, folder.root)
    text = folder.file.read_text()
    for name, value in (
        ("port = 8883", f"port = {free_port()}"),
        ("control = 8884", f"control = {free_port()}"),
        ('"registry.sqlite"', json.dumps(str(database))),
    ):
        assert name in text
        text = text.replace(name, value)
    folder.file.write_text(text)
    config = folder.config()
    with Registry(folder.database(config)) as registry:
        authority = Authority(folder, config.lifetimes, secret.load(folder, config))
        place = Place(Keeper(folder, config, registry, authority))
        try:
            place.start()
            yield place
        finally:
            with contextlib.suppress(ProcessLookupError):
                place.stop()


@pytest.fixture
def place(made, migrated, tmp_path):
    """A fleet on SQLite with its broker running."""
    shutil.copy(migrated, tmp_path / "registry.sqlite")
    with placed(made, tmp_path, tmp_path / "registry.sqlite") as place:
        yield place
