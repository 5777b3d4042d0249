import importlib.metadata
from pathlib import Path

import pytest

from schemas import plugins

GROUP = "flwr_edge.strategy"


def install(folder: Path, name: str, line: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{line}\n")


def names() -> set[str]:
    return {point.name for point in plugins.entry_points(GROUP)}


def test_what_is_installed_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names()
    assert "semipfl" in before
    install(tmp_path, "one", "a = one:A")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert names() == before | {"a"}
    install(tmp_path, "two", "b = two:B")
    assert names() == before | {"a", "b"}
    monkeypatch.undo()
    assert names() == before


def test_distributions_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = names()
    monkeypatch.setattr(importlib.metadata, "distributions", None)  # would raise
    assert names() == expected
