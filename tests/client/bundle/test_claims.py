import pytest

from client.bundle.claims import claimed, lies, measured, where
from client.bundle.memory import memory_of
from schemas.bundle import Expected
from tests.client import small_models

MIB = 2**20


def test_what_is_measured_here_is_no_lie():
    found = measured(
        small_models.card(bits=32, form="qdq"), small_models.floats().SerializeToString()
    )
    assert found.machine == where()
    assert found.memory_bytes > 0
    assert 1 < found.latency_us < 1e5
    assert claimed(found)
    assert lies(found, found) == []


@pytest.mark.parametrize(
    ("said", "found", "parts"),
    [
        ({"memory_bytes": 3 * MIB}, {"memory_bytes": 8 * MIB}, []),
        ({"memory_bytes": 3 * MIB}, {"memory_bytes": 9 * MIB}, ["3.0 MiB; it takes 9.0 MiB"]),
        ({"memory_bytes": 3 * MIB}, {"memory_bytes": None}, []),
        ({"latency_us": 10.0, "machine": "a"}, {"latency_us": 39.0, "machine": "a"}, []),
        ({"latency_us": 10.0, "machine": "a"}, {"latency_us": 99.0, "machine": "b"}, []),
        (
            {"latency_us": 10.0, "machine": "a"},
            {"latency_us": 41.0, "machine": "a"},
            ["expected.latency_us = 10; it takes 41 here"],
        ),
        ({}, {"memory_bytes": 10 * MIB, "latency_us": 41.0}, []),
    ],
)
def test_far_more_than_was_said_is_named(said, found, parts):
    told = lies(Expected(**said), Expected(**found))
    assert len(told) == len(parts)
    assert all(part in each for part, each in zip(parts, told, strict=True))


def test_what_another_machine_took_is_not_measured_for():
    assert not claimed(Expected(latency_us=1.0, machine="another"))
    assert not claimed(Expected())


def test_memory_is_measured_by_our_own_code_wherever_one_stands(tmp_path, monkeypatch):
    """A folder of downloads may hold anything, a ``numpy.py`` too."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('another numpy ran')")
    monkeypatch.chdir(tmp_path)
    assert memory_of("qdq", small_models.floats().SerializeToString()) > 0
