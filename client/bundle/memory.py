"""How much memory a model takes: in a process of its own, for nothing is given back in one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

_RUNS: Final = 20
_LONGEST: Final = 120.0  # seconds


def memory_of(form: str, model: bytes) -> int | None:
    """Bytes by which a fresh process grows when it loads and runs a model; None: unknown here.

    Raises
    ------
    RuntimeError
        Where the process fails.
    """
    if not Path("/proc/self/status").is_file():
        return None
    done = subprocess.run(  # noqa: S603 - this interpreter, this module
        [sys.executable, "-P", "-m", "client.bundle.memory", form],
        input=model,
        capture_output=True,
        timeout=_LONGEST,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        raise RuntimeError(f"the process that measures memory failed: {lines[-1:]}")
    return int(json.loads(done.stdout))


def _main() -> None:
    import numpy as np

    from client.bundle.predictor import session

    model = sys.stdin.buffer.read()
    before = _resident()
    made = session(sys.argv[1], model)
    shape = [size if isinstance(size, int) else 1 for size in made.get_inputs()[0].shape]
    window = np.zeros(shape, np.float32)
    for _ in range(_RUNS):
        made.run(None, {"windows": window})
    sys.stdout.write(json.dumps(max(0, _resident() - before)))


def _resident() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    _main()
