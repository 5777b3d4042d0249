"""The server's own connections to the fleet's broker."""

from pathlib import Path

from schemas.fleet import FleetConfig, FleetFolder
from schemas.link import PahoLink, TlsFiles


def server_link(folder: FleetFolder, config: FleetConfig) -> PahoLink:
    """A link of ``serve``; not connected yet."""
    return _link(folder, config, folder.server, config.broker.server)


def federation_link(folder: FleetFolder, config: FleetConfig) -> PahoLink:
    """A link of who trains on the fleet, beside ``serve``: two of one name would end each other."""
    return _link(folder, config, folder.federation, config.broker.federation)


def _link(folder: FleetFolder, config: FleetConfig, own: Path, name: str) -> PahoLink:
    tls = TlsFiles(folder.bundle_of_cas, own / "certificate.pem", own / "key.pem")
    return PahoLink(config.broker.host, config.broker.port, name, tls=tls)
