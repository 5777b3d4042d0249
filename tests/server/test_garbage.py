"""Commands do not look for garbage in what they imported, nor at their end."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, gc
atexit.register(lambda: print(gc.get_threshold()[0] > 10_000, gc.get_freeze_count() > 10_000))
from {module} import main
main()
"""


@pytest.mark.parametrize("module", ["server.cli", "simulations.cli"])
def test_it_is_not_looked_for(module):
    command = [sys.executable, "-c", SCRIPT.format(module=module), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True"
