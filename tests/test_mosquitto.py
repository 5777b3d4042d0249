"""The broker of the tests: one port in all its lives, and nothing left of it."""

import socket

import pytest

from tests.mosquitto import running


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_comes_back_on_its_port_and_is_gone_at_the_end(tmp_path):
    with running(tmp_path / "broker") as broker:
        port = broker.port
        assert listens(port)
        for end in (broker.stop, broker.kill):
            end()
            assert not listens(port)
            broker.start()
            assert listens(port) == (broker.port == port)
        broker.restart()
        assert broker.port == port
        assert "mosquitto version" in broker.log
    assert not listens(port)


def test_a_wrong_configuration_is_said(tmp_path):
    with pytest.raises(RuntimeError, match="Unknown configuration variable"):
        running(tmp_path, "nonsense true\n").__enter__()
