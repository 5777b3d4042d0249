"""Instructions of each kernel under qemu beside the scalar path's. They say nothing of speed.

qemu names each block of code that it runs (`exec`, unchained) and each block's instructions when it
translates them (`in_asm`); their product, less that of a run without the kernel, is the count.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from root import QEMU, build  # the folder of a script is on its path

KERNELS = ["quantize", "tables", "fast_tables"]
KERNELS += [f"{name}{bits}" for name in ("gemv", "fast", "unpack", "gemm") for bits in (1, 2, 3, 4)]
KERNELS.remove("fast4")  # four bits have no table
PATHS = {"neon": "cortex-a53", "neon_dot": "max"}
TRACE = re.compile(rb"Trace \d+: \S+ \[\w+/(\w+)/")


def instructions(lines: Iterable[bytes]) -> int:
    """Count what a log's blocks ran."""
    sizes: dict[int, int] = {}
    total, listed = 0, 0
    start: int | None = None
    for line in lines:
        if line.startswith(b"Trace"):
            match = TRACE.match(line)
            assert match, line
            total += sizes[int(match[1], 16)]
        elif line.startswith(b"IN:"):
            start, listed = None, 0
        elif line.startswith(b"0x"):
            start = int(line[:10], 16) if start is None else start
            listed += 1
            sizes[start] = listed
    return total


def count(program: Path, cpu: str, isa: str, kernel: str, times: int) -> int:
    """Count the instructions of a whole run."""
    command = [QEMU, "-cpu", cpu, "-d", "nochain,exec,in_asm", "-D", "/dev/fd/1", str(program)]
    command += [isa, "--count", kernel, "--cases", str(times)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=1 << 20) as run:
        assert run.stdout
        total = instructions(run.stdout)
    if run.returncode:
        sys.exit(f"isa_test {isa} --count {kernel} ended with {run.returncode}")
    return total


def main() -> None:
    """Write a JSON object a kernel."""
    program = build() / "isa_test" if len(sys.argv) < 2 else Path(sys.argv[1])
    os.environ.pop("QEMU_LOG", None)
    for kernel in KERNELS:
        row: dict[str, str | int | float] = {"kernel": kernel}
        for isa, cpu in {"scalar": "cortex-a53", **PATHS}.items():
            counts = [count(program, cpu, isa, kernel, times) for times in (0, 1)]
            row[isa] = counts[1] - counts[0]
        row |= {f"scalar/{isa}": round(int(row["scalar"]) / int(row[isa]), 1) for isa in PATHS}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
