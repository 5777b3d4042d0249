"""What Mosquitto is to be told: its configuration, hardened, with a reason beside each line."""

import os
import pwd
from typing import Final

from schemas.fleet import FleetConfig, FleetFolder
from schemas.wire import CHUNK, HEADER

CONTROL: Final = "control.fleet"  # no device's name: those have no dot
LOOPBACK: Final = "127.0.0.1"
LOG: Final = "mosquitto.log"
_CONNECTIONS: Final = 8  # of the control listener
_AROUND: Final = 4096  # bytes of a packet beside its payload: topic, properties
_QUEUED: Final = 10_000  # messages that wait for one client: the server's are all devices'
_QUEUED_BYTES: Final = 64 << 20

_TEXT: Final = """\
# Mosquitto 2.0 for the fleet {name!r}, written by `flwr-fleet broker config`. Do not edit it:
# change fleet.toml and write it again. `flwr-fleet doctor` says where the two differ.
# Run it as the account that runs `flwr-fleet serve`, which signals it, under what starts it again:
#   mosquitto -c {conf}

# One set of rules for all listeners. Nobody is anonymous, nobody has a password: who one is, the
# certificate says (use_identity_as_username, below).
per_listener_settings false
allow_anonymous false
acl_file {acl}
allow_zero_length_clientid false
user {user}
pid_file {pid}

# No plugin is loaded: without one nothing listens on $CONTROL, and the access list denies it.

# Limits. A payload of the protocol is a frame of at most {frame} bytes; a packet that is longer
# than one needs ends its connection, and is logged by name.
max_packet_size {packet}
max_keepalive 3600
max_inflight_messages 20
max_queued_messages {queued}
max_queued_bytes {queued_bytes}
queue_qos0_messages false

# A retained message counts only while its author may write there: a revoked device's does not.
check_retain_source true
upgrade_outgoing_qos false

# Retained states outlive a restart. The protocol keeps no sessions; one that was asked for all the
# same ends after a day.
persistence true
persistence_location {folder}/
autosave_interval 300
persistent_client_expiration 1d

# Names, addresses, reasons and subscriptions are logged. Mosquitto logs payloads on no level, and
# topics of messages only as "debug", which is on where fleet.toml says broker.audit_denied.
# `flwr-fleet serve` audits what the file says was refused or asked for in vain, and begins another
# one where it grows long. Standard error, which nobody bounds, has only what comes before this.
log_dest file {folder}/{log}
log_timestamp true
log_timestamp_format %Y-%m-%dT%H:%M:%S
log_type error
log_type warning
log_type notice
log_type subscribe
{debug}connection_messages true
sys_interval 60
set_tcp_nodelay true

# QoS 2 and topic aliases are not used. That stands in each listener: before the first, such an
# option makes one more of it, without TLS, on port 1883 of every interface.

# Devices and the server. A certificate of the fleet's CA that is not on the revocation list, or no
# connection. Its common name is the user's name and the client id, whatever the client says: with
# another's client id one would take over the other's session.
# No websockets: Mosquitto does not look at the revocation list there.
listener {port} {listen}
protocol mqtt
max_qos 1
max_topic_alias 0
max_connections {connections}
cafile {cas}
certfile {broker}/certificate.pem
keyfile {broker}/key.pem
crlfile {crl}
require_certificate true
use_identity_as_username true
use_username_as_clientid true
tls_version tlsv1.2

# The server's way to throw a session out: it takes the session over, by its client id. From this
# machine only, and with one certificate only, which is its own authority. Its user may clear
# devices' states, and nothing else.
listener {control} {loopback}
protocol mqtt
max_qos 1
max_topic_alias 0
max_connections {control_connections}
cafile {broker}/control.pem
certfile {broker}/certificate.pem
keyfile {broker}/key.pem
require_certificate true
use_identity_as_username true
tls_version tlsv1.2
"""


def configuration(folder: FleetFolder, config: FleetConfig) -> str:
    """The text of ``mosquitto.conf``; it depends on ``fleet.toml`` and on the folder alone."""
    place = config.broker
    return _TEXT.format(
        name=config.name,
        conf=folder.broker / "mosquitto.conf",
        acl=folder.broker / "access.acl",
        pid=folder.broker / "mosquitto.pid",
        folder=folder.broker,
        log=LOG,
        debug="log_type debug\n" if place.audit_denied else "",
        broker=folder.broker,
        cas=folder.bundle_of_cas,
        crl=folder.crl,
        user=_owner(folder),
        frame=HEADER + CHUNK,
        packet=HEADER + CHUNK + _AROUND,
        queued=_QUEUED,
        queued_bytes=_QUEUED_BYTES,
        port=place.port,
        listen=place.listen,
        connections=place.connections,
        control=place.control,
        control_connections=_CONNECTIONS,
        loopback=LOOPBACK,
    )


def _owner(folder: FleetFolder) -> str:
    """The account that owns the folder: started as root, Mosquitto becomes it."""
    number = folder.root.stat().st_uid if folder.root.exists() else os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
