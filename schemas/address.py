"""Hosts: how one is written, with a port and without, and who can reach it."""

import ipaddress


def host_port(host: str, port: int) -> str:
    """``HOST:PORT``; an address of IPv6 in brackets, as it has colons of its own."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def loopback(host: str) -> bool:
    """Whether it is this machine, whichever machine asks."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def plain(host: str) -> str:
    """A name as it is; an address as certificates spell it.

    Raises
    ------
    ValueError
        Where it is neither: names have no colon.
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if ":" in host:
            raise ValueError("expected a name or an address, without a port") from None
        return host
