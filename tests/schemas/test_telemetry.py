import os
import subprocess
import sys

import pytest

LOADERS = ["client.app", "client.bundle", "client.worker", "edge_kernels", "simulations.bench.app"]


@pytest.mark.parametrize("module", LOADERS)
def test_onnx_runtime_tells_nobody_of_the_models(tmp_path, module):
    """Its telemetry makes an id of the device where it is loaded, unless it was told not to."""
    script = f"import {module}, onnxruntime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
    assert not list(tmp_path.rglob("*Microsoft*"))
