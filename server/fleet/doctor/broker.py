"""Checks of the broker: its configuration, whether it runs, and the lists that it goes by."""

import shlex
import shutil
from collections.abc import Iterator
from typing import Final

from server.fleet.broker.access import digest_of
from server.fleet.broker.control import BrokerError, Control, pid
from server.fleet.broker.lists import configured, wanted
from server.fleet.doctor.finding import Check, Deployment, Finding, fault, ok, warning
from server.fleet.doctor.machine import port

_WRITE: Final = "run flwr-fleet broker config, and start the broker again"
_PATHS: Final = (None, "/usr/sbin:/usr/local/sbin")  # Debian keeps it out of a user's path
_RELOAD: Final = "run flwr-fleet broker reload"


def configuration(it: Deployment) -> Iterator[Finding]:
    """What ``broker config`` wrote is what it would write."""
    name, file = "broker-configuration", it.folder.broker / "mosquitto.conf"
    control = (it.folder.broker / "control.pem", it.folder.server / "control.key")
    if not file.exists():
        yield warning(name, "there is none", "run flwr-fleet broker config")
    elif not configured(it.folder, it.config):
        yield fault(name, f"{file}: not what fleet.toml asks for", _WRITE)
    elif missing := [str(each) for each in control if not each.exists()]:
        yield fault(name, f"missing: {', '.join(missing)}: nobody can be thrown out", _WRITE)
    else:
        yield ok(name, f"{file}: as fleet.toml asks for")


def running(it: Deployment) -> Iterator[Finding]:
    """The broker answers as this fleet's."""
    place, conf = it.config.broker, it.folder.broker / "mosquitto.conf"
    yield port(it, "broker", (place.listen, place.port), shlex.join(["mosquitto", "-c", str(conf)]))
    number = pid(it.folder.broker / "mosquitto.pid")
    if number is None and not any(shutil.which("mosquitto", path=path) for path in _PATHS):
        seen, advice = "Mosquitto is not installed here", "install it, or run the broker elsewhere"
        yield warning("broker", seen, advice)


def lists(it: Deployment) -> Iterator[Finding]:
    """Access list and revocation list are the registry's, in the file and in the broker."""
    name, file = "broker-lists", it.folder.broker / "access.acl"
    if not (it.folder.broker / "mosquitto.conf").exists():
        return
    with it.read():
        text = wanted(it.folder, it.config)
    if not file.exists() or file.read_text() != text:
        seen = f"{file}: not what the registry asks for; is flwr-fleet serve running?"
        yield fault(name, seen, _RELOAD)
    elif pid(it.folder.broker / "mosquitto.pid") is None:
        yield ok(name, f"{file}: the registry's; no broker runs that goes by it")
    else:
        yield _loaded(it, name, digest_of(text))


def _loaded(it: Deployment, name: str, digest: str) -> Finding:
    try:
        newest = Control(it.folder, it.config).loaded(digest)
    except (BrokerError, OSError) as error:
        first = f"see to what else is said of the broker; where that is nothing, {_WRITE}"
        return fault(name, f"the broker cannot be asked: {error}", first)
    if not newest:
        return fault(name, "the broker goes by older lists than the registry's", _RELOAD)
    return ok(name, f"the broker goes by the newest, {digest[:12]}")


CHECKS: Final[dict[str, Check]] = {
    "broker-configuration": configuration,
    "broker": running,
    "broker-lists": lists,
}
