"""The native tests under AddressSanitizer and UBSan: kernels against the oracle, and a fuzz."""

import os
import subprocess
from pathlib import Path

import pytest

import edge_kernels

ROOT = Path(__file__).parents[2]


def sets() -> list[str]:
    """Leave out what cannot run here: a third of the compiler's time where there is no AVX-512."""
    features = edge_kernels.info()["features"]
    return ["-DFLWR_EDGE_SETS=avx2"] if "avx2" in features and "avx512bw" not in features else []


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    configure = [
        "cmake", "-S", str(ROOT / "edge_kernels"), "-B", str(folder), "-DFLWR_EDGE_TESTS=ON",
        "-DFLWR_EDGE_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=Debug",
        "-DCMAKE_CXX_FLAGS_DEBUG=-O0",  # half of the compiler's time; what is undefined stays so
        *sets(),
    ]  # fmt: skip
    subprocess.run(configure, check=True, capture_output=True)
    targets = ["--target", "isa_test", "sequential_fuzz", "integer_fuzz"]
    make = ["cmake", "--build", str(folder), "--parallel", "2", *targets]
    subprocess.run(make, check=True, capture_output=True, timeout=240)
    return folder


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
