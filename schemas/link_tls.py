"""TLS towards a broker: what its files hold, and a handshake that can be cut short."""

import contextlib
import datetime as dt
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

from schemas.link_base import TlsFiles

_log = logging.getLogger("flwr_edge.link")


class Context(ssl.SSLContext):
    """A client's context whose files may change, and whose last connection another may end.

    Attributes
    ----------
    loaded : SSLContext
        What it connects with: of what the files held when they were last read.
    """

    loaded: ssl.SSLContext
    last: ssl.SSLSocket | None = None

    def wrap_socket(self, *arguments: Any, **settings: Any) -> ssl.SSLSocket:
        """As everywhere; remembers it."""
        self.last = self.loaded.wrap_socket(*arguments, **settings)
        return self.last

    def interrupt(self) -> None:
        """End the connection under way: who waits in its handshake gets an OSError at once."""
        if self.last is not None:
            with contextlib.suppress(OSError):  # not connected any more
                # The plain socket's: SSLSocket's own forgets the handshake while it is under way.
                socket.socket.shutdown(self.last, socket.SHUT_RDWR)


def context_of(tls: TlsFiles) -> Context:
    """A context that trusts and shows what the files hold.

    Raises
    ------
    OSError
        Where they do not; it names the file.
    """
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.loaded = _load(tls)
    return context


def reload(context: Context, tls: TlsFiles) -> None:
    """Trust and show what the files hold now: who replaces them by hand tells nobody.

    Files that are no good, as half of a new set, leave it as it was.
    """
    try:
        context.loaded = _load(tls)
    except OSError as error:
        _log.warning("%s; what they held before is used", error)


def expired(certificate: Path | None) -> str:
    """What there is to say of a certificate that is over by this machine's clock; else nothing.

    Nothing, too, where it cannot be read: that is said where it is used.
    """
    try:
        from cryptography import x509

        read = x509.load_pem_x509_certificate((certificate or Path()).read_bytes())
    except (ImportError, OSError, ValueError):
        return ""
    ended = read.not_valid_after_utc
    if ended > dt.datetime.now(dt.UTC):
        return ""
    ask = "ask the operator for: flwr-fleet device rotate"
    return f"{certificate}: the certificate has expired, {ended:%Y-%m-%d %H:%M} UTC; {ask}"


def _load(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _plain(tls.ca)
    try:
        context.load_verify_locations(tls.ca)
    except OSError as error:
        raise OSError(f"{tls.ca}: no certificates of authorities in PEM: {_said(error)}") from None
    if tls.certificate is not None:
        _load_own(context, tls.certificate, tls.key)
    return context


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    for path in (certificate, key or certificate):
        _plain(path)
    try:
        context.load_cert_chain(certificate, key, password="")  # else one is asked for, and waited
    except OSError as error:
        what = f"{certificate} with the key {key or certificate}"
        raise OSError(
            f"{what}: no certificate and its key, not encrypted, in PEM: {_said(error)}"
        ) from None


def _plain(path: Path) -> None:
    """OpenSSL's errors name no file that it cannot open, and on a pipe it waits for ever."""
    if not path.is_file():
        raise OSError(f"{path}: is no plain file, or not there")
    path.open("rb").close()


def _said(error: OSError) -> str:
    return error.strerror or str(error)
