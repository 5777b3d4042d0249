"""Networks on disk: whole, of the layout that is asked for, or not there."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from server.kept import keep, kept_at, load_kept


def pair(seed):
    torch.manual_seed(seed)
    return {"one": nn.Linear(2, 3), "two": nn.BatchNorm1d(3)}


def values(networks):
    return [t.clone() for each in networks.values() for t in each.state_dict().values()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(values(one), values(other), strict=True))


@pytest.fixture
def path(tmp_path):
    return kept_at(tmp_path / "cache", "pair", "seed 1")


def test_what_is_kept_comes_back(path):
    first, other = pair(1), pair(2)
    assert not load_kept(path, other)
    keep(path, first)
    assert not same(first, other)
    assert load_kept(path, other)
    assert same(first, other)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_without_a_folder_nothing_is_kept():
    assert kept_at(None, "pair", "seed 1") is None
    keep(None, pair(1))
    assert not load_kept(None, pair(1))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("two/bias"),
        lambda found: found.update({"two/bias": torch.zeros(4)}),
        lambda found: found.update({"two/bias": torch.zeros(3, dtype=torch.float64)}),
        lambda found: found.update({"three/bias": torch.zeros(3)}),
    ],
    ids=["lacks one", "shape", "dtype", "one more"],
)
def test_another_layout_is_removed_and_changes_nothing(path, change):
    """Not even the first of two, whose own part is right."""
    networks = pair(1)
    path.parent.mkdir()
    tensors = {f"{n}/{k}": t for n, m in pair(2).items() for k, t in m.state_dict().items()}
    change(tensors)
    save_file(tensors, path)
    assert not load_kept(path, networks)
    assert same(networks, pair(1))
    assert not path.exists()
