"""Networks on disk: whole, of the layout that is asked for; trained by one process."""

import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from server.kept import kept, kept_at


def pair(seed):
    torch.manual_seed(seed)
    return {"one": nn.Linear(2, 3), "two": nn.BatchNorm1d(3)}


def values(networks):
    return [t.clone() for each in networks.values() for t in each.state_dict().values()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(values(one), values(other), strict=True))


def never():
    raise AssertionError("trained once more")


@pytest.fixture
def path(tmp_path):
    return kept_at(tmp_path / "cache", "pair", "seed 1")


def test_what_is_kept_comes_back(path):
    assert same(kept(path, pair(2), lambda: pair(1)), pair(1))
    assert same(kept(path, pair(3), never), pair(1))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_without_a_folder_nothing_is_kept():
    assert kept_at(None, "pair", "seed 1") is None
    assert same(kept(None, pair(2), lambda: pair(1)), pair(1))


def test_a_training_that_fails_leaves_nothing(path):
    with pytest.raises(AssertionError, match="once more"):
        kept(path, pair(2), never)
    assert not list(path.parent.iterdir())
    assert same(kept(path, pair(2), lambda: pair(1)), pair(1))


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
def test_another_layout_changes_nothing_and_is_trained_anew(path, change):
    """Not even the first of two is read, whose own part is right."""
    path.parent.mkdir()
    tensors = {f"{n}/{k}": t for n, m in pair(2).items() for k, t in m.state_dict().items()}
    change(tensors)
    save_file(tensors, path)
    new = pair(1)
    assert same(kept(path, new, lambda: pair(3)), pair(3))
    assert same(new, pair(1))
    assert same(kept(path, pair(4), never), pair(3))


def test_of_many_that_want_it_one_trains(path):
    """Threads stand for processes: each opens the lock for itself."""
    trained, found = [], []
    together = threading.Barrier(4)
    networks = [pair(seed) for seed in range(4)]

    def train():
        trained.append(pair(9))
        return trained[-1]

    def want(new):
        together.wait()
        found.append(kept(path, new, train))

    threads = [threading.Thread(target=want, args=(new,)) for new in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1
    assert len(found) == 4
    assert all(same(each, trained[0]) for each in found)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_who_was_killed_while_it_trained_keeps_nobody_from_it(path):
    script = f"""
import os, pathlib
from server.kept import kept
from torch import nn
kept(pathlib.Path({str(path)!r}), {{"one": nn.Linear(2, 3)}}, lambda: os.kill(os.getpid(), 9))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert path.with_suffix(".lock").exists()
    assert same(kept(path, pair(2), lambda: pair(1)), pair(1))
    assert [each.name for each in path.parent.iterdir()] == [path.name]
