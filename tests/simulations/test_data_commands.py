"""``flwr-sim data``: what it counts, and what it warns of."""

import json

import numpy as np
import pytest


@pytest.fixture
def folder(tmp_path):
    """Four persons, three classes; a channel that is off, a copied file, a class that one has."""
    place = tmp_path / "mine"
    place.mkdir()
    for seed, name in enumerate(("ann", "bob", "cai", "dee")):
        values = np.random.default_rng(seed).normal(size=(3000, 2)) * [1, 500]
        lines = ["time,acc,light,off,label"]
        for i, (a, b) in enumerate(values):
            label = ("sit", "walk", "run" if name == "ann" else "walk")[i // 1000]
            lines.append(f"{i / 50:.2f},{a:.4f},{b:.4f},0,{label}")
        (place / f"{name}.csv").write_text("\n".join(lines))
    (place / "eve.csv").write_text((place / "dee.csv").read_text())
    return place


@pytest.fixture
def simulation(folder):
    path = folder.parent / "mine.toml"
    path.write_text(
        'name = "mine"\n[data]\nkind = "recordings"\npath = "mine"\nlabel_fraction = 0.1\n'
        "source_persons = 2\nunseen_persons = 1\n"
    )
    return path


def test_a_simulation_file_s_data(sim, simulation):
    code, out, err = sim("data", simulation, "--format", "json")
    assert (code, err) == (0, [])
    found = json.loads(out)
    assert (found["hz"], found["classes"]) == (50.0, ["run", "sit", "walk"])
    roles = [person["role"] for person in found["persons"]]
    assert sorted(roles) == ["client", "client", "source", "source", "unseen"]
    client = next(person for person in found["persons"] if person["role"] == "client")
    assert 0 < client["labelled"] < client["training"]
    assert client["test"]
    assert client["windows"]["sit"] == 12
    assert not found["problems"]
    assert found["duplicates"] == [{"persons": ["dee", "eve"], "windows": 38}]
    said = "\n".join(found["warnings"])
    for words in (
        "are dee's too, to the bit",
        "constant: off",
        "light varies",
        "only one or two persons have run (ann)",
    ):
        assert words in said


def test_parts_are_those_of_a_run(sim, simulation, tmp_path):
    from simulations.config import load
    from simulations.data.load import source
    from simulations.data.split import split

    loaded = load(simulation)
    parts = split(source(loaded.config.data, tmp_path).load(), loaded.config.data, 0)
    persons = json.loads(sim("data", simulation, "--format", "json")[1])["persons"]
    for person, part in parts.parts.items():
        assert persons[person]["training"] == len(part.train)
        assert persons[person]["labelled"] == (part.labels >= 0).sum()
        assert persons[person]["test"] == len(part.test)


def test_a_folder_an_archive_and_a_table_of_80_columns(sim, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = sim("data", folder)
    assert (code, err) == (0, [])
    assert max(map(len, out.splitlines())) <= 80
    assert "ann" in out
    assert "Look at:" in out
    windows = np.random.default_rng(0).normal(size=(60, 20, 2)).astype(np.float32)
    y, subject = np.repeat([0, 1, 0, 1], 15), np.repeat([0, 0, 1, 1], 15)
    np.savez(tmp_path / "mine.npz", X=windows, y=y, subject=subject)
    code, out, err = sim("data", tmp_path / "mine.npz", "--set", "data.label_fraction=0.5")
    assert (code, err) == (0, [])
    assert "60 windows" in out
    assert "A run would refuse:" not in out
    out = sim("data", tmp_path / "mine.npz", "--set", "data.source_persons=3")[1]
    assert "A run would refuse:" in out  # three are the default; said, they are meant


def test_all_that_a_run_would_refuse_is_said_at_once(sim, simulation, folder):
    for name in ("bob", "cai"):
        lines = (folder / f"{name}.csv").read_text().splitlines()
        kept = [*lines[:200], *lines[1001:]]
        (folder / f"{name}.csv").write_text("\n".join(kept))
    sets = ("--set", "seed=3", "--set", "data.source_persons=1", "--set", "data.unseen_persons=0")
    code, out, _ = sim("data", simulation, *sets, "--format", "json")
    assert code == 0
    refused = [line for line in json.loads(out)["problems"] if "class 'sit': 1 windows" in line]
    assert refused
    assert "least_windows" in json.loads(out)["warnings"][0]
    code, out, err = sim("run", simulation, *sets, "--out", folder.parent / "out")
    assert (code, out) == (2, "")
    assert any(line in err[0] for line in refused)
    assert f"flwr-sim data {simulation} shows" in err[0]


def test_many_lines_of_one_kind_are_few(sim, tmp_path):
    for person in range(13):
        lines = [f"{i / 10},{i % 7},{'ab'[i // 55]}" for i in range(110)]
        (tmp_path / f"s{person}.csv").write_text("time,acc,label\n" + "\n".join(lines))
    code, out, _ = sim("data", tmp_path)
    problems = json.loads(sim("data", tmp_path, "--format", "json")[1])["problems"]
    assert (code, len(problems) > 8) == (0, True)
    assert f"{len(problems) - 8} more; --format json has all" in out


def test_the_page_says_what_it_leaves_out(tmp_path):
    from simulations.look import plot

    assert plot._first(12, 15, "classes") == " (the first 12 of 15 classes)"
    assert plot._first(7, 7, "classes") == ""


def test_the_page_is_drawn(sim, simulation, tmp_path):
    code, _, _ = sim("data", simulation, "--plot", tmp_path / "data.png")
    assert code == 0
    assert (tmp_path / "data.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = sim("data", simulation, "--plot", tmp_path / "data.pdf")
    assert (code, len(err)) == (2, 1)
    assert "a name that ends in .png" in err[0]


def test_what_is_wrong_is_said(sim, folder, tmp_path):
    (tmp_path / "notes.md").write_text("no recording")
    code, _, err = sim("data", tmp_path / "notes.md")
    assert (code, err[0].count("notes.md")) == (2, 1)
    assert sim("data", tmp_path / "none")[0] == 2
    code, _, err = sim("data", folder, "--set", "data.options.label=speed")
    assert code == 2
    assert "ann.csv: no column 'speed'" in err[0]
    code, _, err = sim("data", folder, "--set", "data.options.lable=x")
    assert code == 2
    assert "data.options.lable" in err[0]
