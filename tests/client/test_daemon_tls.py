"""The daemon behind TLS with client certificates, on a real broker."""

from itertools import chain

import pytest

from schemas.link import PahoLink, TlsFiles
from tests.certificates import certificates
from tests.client import handmade
from tests.client.hub import Hub
from tests.client.process import DEVICE, Process, install
from tests.mosquitto import running


@pytest.fixture
def files(tmp_path):
    return certificates(tmp_path)


@pytest.fixture
def broker(files, tmp_path):
    lines = (
        f"cafile {files['ca']}\ncertfile {files['certificate']}\nkeyfile {files['key']}\n"
        "require_certificate true\n"
    )
    (tmp_path / "broker").mkdir()
    with running(tmp_path / "broker", lines) as broker:
        yield broker


@pytest.fixture
def hub(broker, files):
    link = PahoLink("127.0.0.1", broker.port, "server", tls=TlsFiles(**files))
    hub = Hub(link, DEVICE)
    assert link.wait_connected(30)
    yield hub
    link.close()


@pytest.fixture
def process(broker, tmp_path):
    """Start a daemon with some of the files, by their names."""
    handmade.windows(tmp_path / "windows")
    process = Process(tmp_path, broker.port)

    def start(**named):
        lines = [f'{name} = "{path}"' for name, path in named.items()]
        process.config.write_text(
            "\n".join(chain([process.config.read_text(), "[broker.tls]"], lines)) + "\n"
        )
        process.start()
        return process

    yield start
    process.end()
    process.log.close()


def test_a_daemon_learns_behind_tls(hub, process, files):
    process(**files)
    hub.until(lambda: hub.states and hub.states[-1].online)
    graphs = install(hub)
    assert hub.answered(hub.task("train", handmade.training(graphs, 1)))


@pytest.mark.parametrize("lacks", ["a certificate", "the broker's authority"])
def test_who_is_not_trusted_or_does_not_trust_stays_out_and_says_why(
    lacks, hub, process, files, tmp_path
):
    named = {"ca": files["ca"]}
    if lacks != "a certificate":
        (tmp_path / "other").mkdir()
        named = files | {"ca": certificates(tmp_path / "other")["ca"]}
    daemon = process(**named)
    hub.until(lambda: "certificate" in daemon.said().lower())
    assert not hub.states
    assert daemon.child.poll() is None  # it tries again: the broker's clock may be what is wrong
