"""The native tests under AddressSanitizer and UBSan: kernels against the oracle, and a fuzz."""

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge_kernels
from schemas.caches import cache_folder

ROOT = Path(__file__).parents[2]


def sets() -> list[str]:
    """Leave out what cannot run here: a third of the compiler's time where there is no AVX-512."""
    features = edge_kernels.info()["features"]
    return ["-DFLWR_EDGE_SETS=avx2"] if "avx2" in features and "avx512bw" not in features else []


@pytest.fixture(scope="module")
def build() -> Iterator[Path]:
    """The programs; kept between sessions, so that the compiler has what changed to do alone."""
    configure = [
        "cmake", "-S", str(ROOT / "edge_kernels"), "-DFLWR_EDGE_TESTS=ON",
        "-DFLWR_EDGE_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=Debug",
        # Half of the compiler's time; and a third more where helpers that kernels have inlined by
        # force are compiled once, not in each of dozens of instances. What is undefined stays so.
        "-DCMAKE_CXX_FLAGS_DEBUG=-O0 -Dalways_inline=",
        *sets(),
    ]  # fmt: skip
    compiler = subprocess.run(["c++", "--version"], check=True, capture_output=True).stdout
    made_of = hashlib.sha256(repr((configure, compiler)).encode()).hexdigest()[:8]
    folder = cache_folder() / "native-tests" / made_of
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another session's is not to be built anew under it
        subprocess.run([*configure, "-B", str(folder)], check=True, capture_output=True)
        targets = ["--target", "isa_test", "sequential_fuzz", "integer_fuzz"]
        make = ["cmake", "--build", str(folder), "--parallel", "2", *targets]
        subprocess.run(make, check=True, capture_output=True, timeout=240)
        yield folder


def run(program: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(program), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_every_instruction_set_equals_the_oracle_and_reads_nothing_beyond(build: Path) -> None:
    run(build / "isa_test", "--cases", "400")


def test_hostile_programs_of_a_network_touch_nothing_else(build: Path) -> None:
    run(build / "sequential_fuzz", "20000")


def test_hostile_programs_in_integers_touch_nothing_else(build: Path) -> None:
    run(build / "integer_fuzz", "20000")
