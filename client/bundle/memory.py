"""How much memory a model takes: in a process of its own, for nothing is given back in one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

_RUNS: Final = 20
_LONGEST: Final = 120.0  # seconds
_FAILED: Final = "the process that measures memory failed"


def memory_of(form: str, model: bytes) -> int | None:
    """Bytes by which a fresh process grows when it loads and runs a model; None: unknown here.

    Raises
    ------
    RuntimeError
        Where the process fails, or takes too long; it says why.
    """
    if not Path("/proc/self/status").is_file():
        return None
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, this module
            [sys.executable, "-P", "-m", "client.bundle.memory", form],
            input=model,
            capture_output=True,
            timeout=_LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{_FAILED}: it took longer than {_LONGEST:g} s") from None
    if done.returncode:
        raise RuntimeError(f"{_FAILED}: {_why(done.returncode, done.stderr)}")
    return int(json.loads(done.stdout))


def _why(code: int, said: bytes) -> str:
    """What an exit code and a traceback's last line say."""
    if code < 0:
        return f"it was ended by signal {-code}"
    *_, last = said.decode("utf-8", "replace").splitlines() or [f"it ended with exit code {code}"]
    kind, _, message = last.partition(": ")
    return message or kind


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
