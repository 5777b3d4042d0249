import subprocess
import sys
from importlib.metadata import version

import pytest


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("flwr-edge", "client.cli"),
        ("flwr-fleet", "server.cli"),
        ("flwr-sim", "simulations.cli"),
    ],
)
def test_each_command_says_its_release(command, module):
    script = f"import sys, {module}; sys.argv[1:] = ['--version']; {module}.main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{command} {version('flwr-edge')}\n"
