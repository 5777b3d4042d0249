import sys

import pytest

from client.bundle import memory
from client.bundle.memory import memory_of
from tests.client import small_models

FAILED = "^the process that measures memory failed: "


def test_a_model_that_does_not_load_is_said_in_words():
    with pytest.raises(RuntimeError, match=FAILED + "the model does not load: .*parsing failed"):
        memory_of("qdq", b"nonsense")


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("kill -9 $$", "it was ended by signal 9"),
        ("exit 3", "it ended with exit code 3"),
        ("echo MemoryError >&2; exit 1", "MemoryError"),
    ],
)
def test_how_the_process_ended_is_said(tmp_path, monkeypatch, does, said):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{does}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RuntimeError, match=f"{FAILED}{said}$"):
        memory_of("qdq", b"")


def test_a_measurement_ends(monkeypatch):
    monkeypatch.setattr(memory, "_LONGEST", 0.01)
    with pytest.raises(RuntimeError, match=FAILED + "it took longer than 0.01 s$"):
        memory_of("qdq", small_models.floats().SerializeToString())
