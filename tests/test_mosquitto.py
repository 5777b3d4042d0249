"""The broker of the tests: one port in all its lives, and nothing left of it."""

import os
import socket
import subprocess
import sys

import pytest

from tests.mosquitto import free_port, running

PORTS = "from tests.mosquitto import free_port; print(*(free_port() for _ in range(9000)))"


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


def test_no_two_processes_are_given_the_same_port():
    given = set()
    for worker in ("gw0", "gw1"):
        env = os.environ | {"PYTEST_XDIST_WORKER": worker, "PYTEST_XDIST_WORKER_COUNT": "2"}
        said = subprocess.check_output([sys.executable, "-c", PORTS], env=env, text=True)
        ports = set(map(int, said.split()))
        assert len(ports) > 1
        assert not given & ports
        given |= ports


def test_a_port_in_use_is_not_given():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port() + 1))  # which would be the next
        assert free_port() != taken.getsockname()[1]
