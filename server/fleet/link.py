"""The server's own connection to the fleet's broker."""

from schemas.fleet import FleetConfig, FleetFolder
from schemas.link import PahoLink, TlsFiles


def server_link(folder: FleetFolder, config: FleetConfig) -> PahoLink:
    """A link with the server's certificate and name; not connected yet."""
    tls = TlsFiles(
        folder.bundle_of_cas, folder.server / "certificate.pem", folder.server / "key.pem"
    )
    return PahoLink(config.broker.host, config.broker.port, config.broker.server, tls=tls)
