"""What a device reads; what it asks is in ``tests/server/fleet/test_joining.py``."""

import pytest

from client.enrolment import address
from schemas.address import host_port
from schemas.base import ConfigError


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ("fleet.example", ("fleet.example", 8443)),
        ("fleet.example:443", ("fleet.example", 443)),
        ("10.0.0.7:443", ("10.0.0.7", 443)),
        ("::1", ("::1", 8443)),
        ("2001:db8::7", ("2001:db8::7", 8443)),
        ("[::1]", ("::1", 8443)),
        ("[::1]:443", ("::1", 443)),
        (host_port("2001:db8::7", 443), ("2001:db8::7", 443)),
    ],
)
def test_an_address_is_a_host_and_perhaps_a_port(server, found):
    assert address(server) == found


@pytest.mark.parametrize(
    "server",
    [
        "",
        ":443",
        "a:",
        "a:x",
        "a:0",
        "a:65536",
        "a/b",
        "[::1",
        "[::1]x",
        "[::1]443",
        "[]:443",
        "::1]",
    ],
)
def test_what_is_no_address_is_said(server):
    with pytest.raises(ConfigError, match=r"expected HOST or HOST:PORT"):
        address(server)
