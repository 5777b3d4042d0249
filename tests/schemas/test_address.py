import pytest

from schemas.address import host_port, loopback, plain


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("fleet.example", "fleet.example:8443"),
        ("10.0.0.7", "10.0.0.7:8443"),
        ("::1", "[::1]:8443"),
        ("2001:db8::7", "[2001:db8::7]:8443"),
    ],
)
def test_a_port_does_not_run_into_an_address(host, says):
    assert host_port(host, 8443) == says


@pytest.mark.parametrize("host", ["localhost", "fleet.localhost", "127.0.0.1", "127.8.9.1", "::1"])
def test_what_this_machine_alone_reaches(host):
    assert loopback(host)


@pytest.mark.parametrize(
    "host", ["fleet.example", "localhost.example", "10.0.0.7", "::", "fe80::1"]
)
def test_what_others_may_reach(host):
    assert not loopback(host)


def test_an_address_is_spelled_in_one_way():
    """Certificates spell it so, and are compared with it."""
    assert plain("2001:DB8:0:0::7") == "2001:db8::7"
    assert plain("Fleet.example") == "Fleet.example"
    for bad in ("fleet.example:8443", "1:2", "::1:x"):
        with pytest.raises(ValueError, match="without a port"):
            plain(bad)
