"""The native tests under AddressSanitizer and UBSan: kernels against the oracle, and a fuzz."""

import fcntl
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge_kernels
from schemas.caches import cache_folder

ROOT = Path(__file__).parents[2]


def sets() -> list[str]:
    """Leave out what cannot run here: a third of the compiler's time where there is no AVX-512.

    AVX-VNNI's code also runs where AVX-512 has its instruction, in that encoding.
    """
    features = edge_kernels.info()["features"]
    if "avxvnni" not in features and {"avx512vl", "avx512vnni"} <= set(features):
        return ["-DFLWR_EDGE_EVEX=ON"]
    if "avx2" not in features or "avx512bw" in features:
        return []
    return ["-DFLWR_EDGE_SETS=avx2" + (";avxvnni" if "avxvnni" in features else "")]


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


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-VNNI is x86's")
@pytest.mark.parametrize(
    "source", ["kernels/avxvnni", "integer/int_avxvnni", "sequential/sequential_avxvnni"]
)
def test_avxvnni_needs_no_avx512(tmp_path: Path, source: str) -> None:
    """Few of the machines that test this have AVX-VNNI: its encoding is looked at instead."""
    csrc, to = ROOT / "edge_kernels/csrc", tmp_path / "it.o"
    flags = ["-std=c++17", "-O0", "-Dalways_inline=", "-mavx2", "-mfma", "-mf16c", "-c"]
    folders = [f"-I{csrc}", *(f"-I{csrc}/{each}" for each in ("kernels", "integer", "sequential"))]
    command = ["c++", *flags, *folders, str(csrc / f"{source}.cc"), "-o", str(to)]
    subprocess.run(command, check=True, timeout=120)
    shown = subprocess.run(["objdump", "-d", str(to)], check=True, capture_output=True, text=True)
    codes = re.findall(
        r"^ *[0-9a-f]+:\t((?:[0-9a-f]{2} )+).*\t(?:\{vex\} )?(\w+)", shown.stdout, re.MULTILINE
    )
    products = [code for code, name in codes if name == "vpdpbusd"]
    assert products
    assert all(code.startswith(("c4 ", "c5 ")) for code in products)  # VEX
    assert not any(code.startswith("62 ") for code, _ in codes)  # EVEX


def test_hostile_programs_of_a_network_touch_nothing_else(build: Path) -> None:
    run(build / "sequential_fuzz", "20000")


def test_hostile_programs_in_integers_touch_nothing_else(build: Path) -> None:
    run(build / "integer_fuzz", "20000")
