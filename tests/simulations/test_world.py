"""From a file to devices: parts, sources, and the sources' model, kept by digest."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from client.windows import PersonWindows
from hypernet.networks.inputs import InputSpec
from hypernet.networks.norm import norms
from hypernet.source_training import new_classifier
from hypernet.sources import Sources
from schemas.base import ConfigError
from simulations.config import load
from simulations.data.base import DataError
from simulations.report.files import RunError
from simulations.world import SourceModel, digest_of, open_world


@pytest.fixture
def opened(simulation_file, tmp_path):
    def make(*overrides):
        return open_world(load(simulation_file, overrides), tmp_path / "w", lambda _: None)

    return make


def test_everyone_has_one_part_and_a_folder_while_it_is_open(opened, tmp_path, arrays):
    with opened() as world:
        everyone = world.persons | world.unseen
        assert len(world.persons) == 3
        assert len(world.unseen) == 1
        assert not world.persons.keys() & world.unseen.keys()
        assert world.nodes.keys() == everyone.keys()
        assert min(everyone) >= 1  # Flower keeps 0 for the server
        assert world.federation.clients == tuple(sorted(world.persons))
        for node, config in world.nodes.items():
            own = PersonWindows.open(tmp_path / "w" / config["windows"].rpartition("/")[2])
            theirs = arrays["X"][arrays["subject"] == node - 1]
            assert all((window == theirs).all(axis=(1, 2)).any() for window in own.train[:3])
            assert (own.labels >= 0).any() == (node in world.persons)
    assert not (tmp_path / "w").exists()


def test_rectified_channels_are_inputs_too(opened):
    with opened() as plain, opened("data.rectify=true") as world:
        spec, channels = world.federation.spec, plain.federation.spec.channels
        before = plain.federation.spec.magnitudes
        assert spec.magnitudes == (*before, *((channel,) for channel in range(channels)))
        x = world.federation.sources.x[0].float()
        assert torch.allclose(spec.expand(x)[..., -channels:], x.abs())


def test_sources_are_neither_clients_nor_unseen(opened, arrays):
    with opened() as world:
        sources = world.federation.sources
        nodes = {node - 1 for node in world.nodes}
        rest = [p for p in range(6) if p not in nodes]
        assert len(sources) == len(rest) == 2
        counts = sorted(len(x) for x in sources.x)
        assert counts == [120, 120]
        taken = torch.cat(sources.x).numpy()
        for person in rest:
            theirs = arrays["X"][arrays["subject"] == person]
            assert any(np.array_equal(theirs[0], window) for window in taken)


def test_what_devices_read_is_gone_after_an_error_too(opened, tmp_path):
    with pytest.raises(KeyError), opened():
        raise KeyError
    assert not (tmp_path / "w").exists()


def test_errors_in_the_parts_name_the_simulation_file(opened, simulation_file):
    with (
        pytest.raises(ConfigError, match="no client is left") as caught,
        opened("data.source_persons=6"),
    ):
        pass
    assert caught.value.where == str(simulation_file)
    with pytest.raises(ConfigError, match="no such data source") as caught, opened("data.kind=x"):
        pass
    assert caught.value.where == str(simulation_file)
    with pytest.raises(ConfigError, match="give 1 to 3") as caught, opened("cohort.size=4"):
        pass
    assert caught.value.where == str(simulation_file)
    with pytest.raises(DataError, match="no such file") as caught, opened("data.path=none.npz"):
        pass
    assert str(caught.value).startswith(f"{simulation_file}: ")


def test_a_digest_is_of_every_window_label_and_name(opened):
    with opened() as world:
        one = world.recordings
        digest = world.digest
    assert digest == digest_of(one)
    x = one.x.copy()
    x[-1, -1, -1] += 1
    for change in (
        {"x": x},
        {"y": np.roll(one.y, 1)},
        {"person": np.roll(one.person, 1)},
        {"start": one.start + 1},
        {"persons": one.persons[::-1]},
        {"magnitudes": ()},
    ):
        assert digest_of(replace(one, **change)) != digest


@pytest.fixture
def model(opened):
    lines = []
    with opened("source.steps=7") as world:
        federation = world.federation

    def make(owners=(), **config):
        settings = federation.config.model_copy(update=config)
        return SourceModel(federation.sources, settings, lines.append, owners)

    make.lines = lines
    return make


def vector(network):
    return torch.cat([tensor.flatten().float() for tensor in network.state_dict().values()])


def test_the_source_model_is_trained_once_and_found_again(model, edge_cache, monkeypatch):
    path = model()._path()
    path.unlink(missing_ok=True)
    first = model()
    network = first()
    assert first() is network
    assert len(model.lines) == 1
    assert torch.equal(vector(model()()), vector(network))
    assert len(model.lines) == 1
    assert not network.training
    assert not model()().training
    assert not torch.equal(vector(model(seed=5)()), vector(network))


def test_days_of_volunteers_are_no_persons(model):
    made = model(("ann", "bob"))
    made._path().unlink(missing_ok=True)
    made()
    assert model.lines[-1].startswith("training on 2 days of 2 source persons: ")


X = torch.arange(2 * 8 * 16 * 6.0).reshape(2, 8, 16, 6)


@pytest.mark.parametrize(
    "change",
    [
        {"spec": InputSpec(16, 6, ((3, 4, 5),))},
        {"classes": 3},
        {"x": list(X.view(torch.int32))},
        {"x": list(X.reshape(2, 4, 32, 6))},
    ],
    ids=["magnitudes", "classes", "dtype", "shape"],
)
def test_a_source_model_is_not_found_again_for_other_sources(model, change):
    y = [torch.zeros(8, dtype=torch.long)] * 2
    one = Sources(InputSpec(16, 6, ((0, 1, 2),)), list(X), y, classes=2)
    config = model().config
    paths = [SourceModel(each, config, print)._path() for each in (one, replace(one, **change))]
    assert paths[0] != paths[1]


def test_a_source_model_that_diverged_is_not_kept(model, monkeypatch):
    made = model()
    made._path().unlink(missing_ok=True)

    def diverged(*_):
        network = new_classifier(made.sources, made.config.model, 0)
        with torch.no_grad():
            network.head.bias[0] = float("nan")
        return network

    monkeypatch.setattr("simulations.world.train_source", diverged)
    with pytest.raises(RunError, match=r"not finite .* source\.learning_rate"):
        made()
    assert not made._path().exists()


def test_a_share_of_statistics_trains_nothing_anew(model):
    network = model()()
    lines = len(model.lines)
    settings = model().config.model.model_copy(update={"own_statistics": 0.9})
    other = model(model=settings)()
    assert torch.equal(vector(other), vector(network))
    assert len(model.lines) == lines
    assert {norm.own for norm in norms(network)} == {0.5}
    assert {norm.own for norm in norms(other)} == {0.9}


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_broken_cache_is_trained_again(model, content):
    good = vector(model()())
    path = model()._path()
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    assert torch.equal(vector(model()()), good)
    assert torch.equal(vector(model()()), good)
    assert len(model.lines) <= 2


def test_another_process_may_be_writing_it(model):
    network = model()()
    path = model()._path()
    path.unlink()
    for process in ("1", "999999999"):
        path.with_name(f".{path.name}.{process}.part").write_bytes(b"half")
    assert torch.equal(vector(model()()), vector(network))
    assert path.is_file()
    for half in path.parent.glob("*.part"):
        assert half.read_bytes() == b"half"
        half.unlink()


def test_no_room_for_the_source_model_is_one_line(model, monkeypatch):
    model()._path().unlink(missing_ok=True)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        model()()
    folder = model()._path().parent
    assert not [path for path in folder.iterdir() if path.suffix == ".part"]
    assert not model()._path().exists()


def test_the_cache_is_where_the_environment_says(model, edge_cache):
    assert model()._path().is_relative_to(edge_cache)


@pytest.mark.parametrize("key", ["synchronous.min_replies", "asynchronous.concurrency"])
def test_no_more_replies_than_clients(opened, key):
    everyone = "cohort.size=3", f"{key}=4"
    with pytest.raises(ConfigError) as wrong, opened(*everyone):
        pass
    assert f"{key} = 4: " in str(wrong.value)
