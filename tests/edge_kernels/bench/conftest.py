"""A report as a run would give it."""

import pytest

from schemas.bench import EncoderReport, EncoderRow, KernelReport, KernelRow, Machine, Versions

HERE = {
    "machine": Machine(
        cpu="A CPU", cores=2, architecture="x86_64", isa="avx2", features=["avx2"], load=0.5
    ),
    "versions": Versions(flwr_edge="0.1.0", onnxruntime="1.32.0", layout=1, python="3.11.2"),
}
TIMED = {"threads": 1, "isa": "avx2", "spread": (11.0, 13.0)}


def kernel_row(**changes):
    row = {
        **TIMED,
        "m": 1,
        "k": 1024,
        "n": 256,
        "bits": 2,
        "group": 64,
        "fast": False,
        "microseconds": 12.0,
        "rivals": {"MatMul fp32": 90.0, "MatMulNBits 2": 24.0},
        "rivals_spread": {"MatMul fp32": (89.0, 91.0), "MatMulNBits 2": (23.0, 25.0)},
        "best_rival": "MatMulNBits 2",
        "speedup_over_best_rival": 2.0,
        "plain_run_microseconds": 15.0,
        "plain_run_speedup": 1.6,
        "floor_microseconds": 10.0,
        "floor_spread": (9.5, 10.5),
        "ratio_to_floor": 1.2,
        "relative_rms_error": 0.005,
    }
    return KernelRow(**row | changes)


@pytest.fixture
def kernel_report():
    lonely = {"rivals": {}, "rivals_spread": {}, "best_rival": None}
    return KernelReport(
        **HERE,
        rows=[
            kernel_row(),
            kernel_row(bits="ternary", group=0, fast=True),
            kernel_row(m=16, **lonely, speedup_over_best_rival=None, plain_run_speedup=None),
        ],
        left_out={"MatMulNBits 8": "not there"},
    )


@pytest.fixture
def encoder_report():
    row = EncoderRow(
        **TIMED,
        batch=1,
        bits=4,
        microseconds=5.0,
        rivals={"fp32": 35.0, "QDQ u8": 20.0},
        rivals_spread={"fp32": (34.0, 36.0), "QDQ u8": (19.0, 21.0)},
        plain_run_microseconds=8.0,
        speedup_over={"fp32": 7.0, "QDQ u8": 4.0},
        plain_run_speedup_over={"fp32": 4.4, "QDQ u8": 2.5},
        relative_rms_error=0.1,
    )
    return EncoderReport(**HERE, rows=[row])
