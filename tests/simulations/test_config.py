"""A simulation file: every problem named, all at once; what the editors' schema says."""

import tomllib
from pathlib import Path

import pytest
from flwr.serverapp import strategy as flower
from pydantic import BaseModel

import simulations
from schemas.base import ConfigError
from schemas.simulation import Simulation
from schemas.toml_file import allowed_keys, value_of
from server.strategies.averaging import FedAvg
from server.strategies.base import EdgeStrategy
from server.strategies.installed import strategies
from simulations.config import json_schema, load

SHIPPED = sorted(
    path
    for path in Path(simulations.__path__[0]).glob("*.toml")
    if "base" not in tomllib.loads(path.read_text())  # a sweep's file
)


@pytest.fixture
def write(tmp_path):
    def file(text):
        path = tmp_path / "a.toml"
        path.write_text(text)
        return path

    return file


def problems(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert caught.value.where in {str(path), "--set"}
    assert all("\n" not in problem for problem in caught.value.problems)
    return list(caught.value.problems)


GOOD = 'name = "a"\nstrategy = "fedavg"\n'


def test_defaults_and_parameters_of_every_named_strategy(write):
    text = GOOD + 'baselines = ["ditto"]\n[strategies.fedavg]\nsteps = 3\n'
    loaded = load(write(text))
    assert loaded.parameters["fedavg"].steps == 3
    assert loaded.parameters["ditto"].pull == 0.1
    assert loaded.config.data.kind == "watch"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_load_and_fit_the_schema(path):
    load(path)
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(tomllib.loads(path.read_text()), json_schema())


def test_there_are_shipped_files():
    assert "wearables.toml" in {path.name for path in SHIPPED}


def test_the_schema_refuses_what_load_refuses(write):
    jsonschema = pytest.importorskip("jsonschema")
    for text in (
        GOOD + "[data]\nlabel_fraction = 1.5\n",
        GOOD + "[data]\nlabels = 0.5\n",
        GOOD + "[strategies.fedavg]\nstep = 3\n",
        GOOD + "[strategies.fedavgg]\nsteps = 3\n",
        'name = "a"\nstrategy = "fedavgg"\n',
        GOOD + 'baselines = ["fedavgg"]\n',
        'strategy = "fedavg"\n',
    ):
        with pytest.raises(ConfigError):
            load(write(text))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tomllib.loads(text), json_schema())


def test_the_schema_knows_each_data_source_s_own_options(write):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(tomllib.loads(GOOD + "[data.options]\n"), json_schema())
    text = GOOD + '[data]\nkind = "npz"\n[data.options]\nhz = 3\n'
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text), json_schema())
    loaded = load(write(text), ["data.options.hz=4"])  # checked once the data are opened
    assert loaded.config.data.options == {"hz": 4}


def test_every_field_of_the_file_is_described():
    schema = json_schema()
    tables = {"": schema, **schema["$defs"], **schema["properties"]["strategies"]["properties"]}
    tables.pop("semipfl", None)
    assert all(table["description"] for table in tables.values())
    bare = [
        f"{name}.{key}"
        for name, table in tables.items()
        for key, field in table.get("properties", {}).items()
        if not field.get("description") and "$ref" not in field
    ]
    assert bare == []


def test_no_number_of_any_table_is_without_bounds():
    """A subclass that gives another default must not lose them."""
    schema = json_schema()
    tables = {"": schema, **schema["$defs"], **schema["properties"]["strategies"]["properties"]}
    free = [
        f"{name}.{key}"
        for name, table in tables.items()
        for key, field in table.get("properties", {}).items()
        for kind in (field, *field.get("anyOf", ()))
        if kind.get("type") in {"integer", "number"}
        and not kind.keys() & {"minimum", "exclusiveMinimum"}
    ]
    assert free == []


def test_bounds_and_defaults_are_in_the_schema():
    schema = json_schema()
    fraction = schema["$defs"]["Data"]["properties"]["label_fraction"]
    assert (fraction["minimum"], fraction["maximum"], fraction["default"]) == (0, 1, 0.05)
    assert set(schema["properties"]["strategy"]["enum"]) == set(strategies())
    kinds = schema["$defs"]["Data"]["properties"]["kind"]
    assert {"watch", "npz", "days"} <= set(kinds["enum"])
    assert kinds["default"] == "watch"
    assert set(schema["properties"]["strategies"]["properties"]) == set(strategies())
    assert schema["additionalProperties"] is False


def test_allowed_keys_are_every_table_s():
    keys = allowed_keys(Simulation)
    assert keys[""] == sorted(Simulation.model_fields)
    for name, field in Simulation.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            assert keys[name] == sorted(inner.model_fields)
    assert "label_fraction" in keys["data"]


def test_an_unknown_key_names_key_value_and_what_is_allowed(write):
    (said,) = problems(write(GOOD + "[data]\nlabels = 0.5\n"))
    assert said.startswith(
        "data.labels = 0.5: unknown key; allowed here: bout_windows, client_days, held_out, kind, "
    )
    (said,) = problems(write(GOOD + "[strategies.fedavg]\nstep = 3\n"))
    assert said.startswith("strategies.fedavg.step = 3: unknown key; allowed here: ")
    assert "steps" in said
    (said,) = problems(write("round = 3\n" + GOOD))
    assert said.startswith("round = 3: unknown key; allowed here: asynchronous, baselines, cohort")


def test_all_problems_at_once(write):
    text = """
name = "a b"
rounds = -1
strategy = "fedavgg"
baselines = ["fedavg", "nope", "ditto"]
[data]
label_fraction = 1.5
labels = 1
[strategies.fedavg]
steps = "many"
[strategies.ditto]
pull = -1
[strategies.other]
x = 1
"""
    said = problems(write(text))
    starts = [
        "name = 'a b': ",
        "rounds = -1: ",
        "data.label_fraction = 1.5: ",
        "data.labels = 1: unknown key",
        "strategy = 'fedavgg': no such strategy; installed: ",
        "baselines = 'nope': no such strategy; installed: ",
        "strategies = 'other': no such strategy; installed: ",
        "strategies.fedavg.steps = 'many': ",
        "strategies.ditto.pull = -1: ",
    ]
    for start in starts:
        assert len([line for line in said if line.startswith(start)]) == 1, start
    assert len(said) == len(starts)


@pytest.mark.parametrize("value", [-0.01, 1.01, "nan", "inf", '"half"'])
def test_a_label_fraction_out_of_range_is_refused_with_the_range(write, value):
    (said,) = problems(write(GOOD + f"[data]\nlabel_fraction = {value}\n"))
    assert said.startswith("data.label_fraction = ")


def test_no_labels_and_strategies_that_need_them_one_line_each(write):
    text = GOOD + 'baselines = ["adabn", "ditto"]\n[data]\nlabel_fraction = 0\n'
    said = problems(write(text))
    assert [line.split(":")[0] for line in said] == ["data.label_fraction = 0"] * 2
    assert "'fedavg'" in said[0]
    assert "'ditto'" in said[1]
    load(write('name = "a"\nstrategy = "adabn"\n[data]\nlabel_fraction = 0\n'))


def test_a_strategy_that_stands_twice_is_one_short_line(write):
    (said,) = problems(write(GOOD + 'baselines = ["ditto", "fedavg"]\n'))
    assert said == "fedavg is both the strategy and a baseline: take it out of baselines"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("strategies = 3\n" + GOOD, "strategies = 3: "),
        ("data = 3\n" + GOOD, "data = 3: "),
        ("baselines = 3\n" + GOOD, "baselines = 3: "),
        ("baselines = [3]\n" + GOOD, "baselines.0 = 3: "),
        ('baselines = "ditto"\n' + GOOD, "baselines = 'ditto': "),
        ('name = "a"\nstrategy = 3\n', "strategy = 3: "),
        ("[strategies]\nfedavg = 3\n" + GOOD, ""),
    ],
)
def test_values_of_the_wrong_kind(write, text, start):
    said = problems(write(text))
    assert any(line.startswith(start) for line in said), said


def test_a_long_value_is_cut_short(write):
    (said,) = problems(write(GOOD + f"[data]\nlabel_fraction = {list(range(1000))}\n"))
    assert len(said) < 300


def test_files_that_cannot_be_read(write, tmp_path):
    assert problems(tmp_path / "none.toml") == ["no such file"]
    (said,) = problems(tmp_path)
    assert said.startswith("cannot be read: ")
    (said,) = problems(write("name = \n"))
    assert said.startswith("not TOML: ")
    assert "line 1" in said
    path = tmp_path / "b.toml"
    path.write_bytes(b"\xff\xfe")
    (said,) = problems(path)
    assert said.startswith("line 1: expected UTF-8")


def test_overrides_have_the_same_checks(write):
    path = write(GOOD)
    overrides = ["data.label_fraction=0.25", "strategies.fedprox.mu=2", "strategy=fedprox"]
    loaded = load(path, [*overrides, "engine.workers = 3", 'data.path="x=y.npz"'])
    assert loaded.config.data.label_fraction == 0.25
    assert loaded.config.data.path == "x=y.npz"
    assert loaded.config.engine.workers == 3
    assert loaded.parameters["fedprox"].mu == 2
    said = problems(path, "data.label_fraction=7", "dta.kind=npz", "strategies.fedavg.steps=-1")
    assert [line.split(" ")[0] for line in said] == [
        "data.label_fraction",
        "dta",
        "strategies.fedavg.steps",
    ]


def test_the_last_override_of_a_key_counts(write):
    assert load(write(GOOD), ["seed=1", "seed=2"]).config.seed == 2


def test_malformed_overrides_are_told_all_at_once(write):
    said = problems(write(GOOD), "seed", "=3", "data..kind=1", "name.first=1")
    assert len(said) == 4
    assert said[0] == "'seed': expected key.path=value"
    assert "name is a value, not a table" in said[3]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("word", "word"),
        ("two words", "two words"),
        ("[1, 'a']", [1, "a"]),
        ("'quoted'", "quoted"),
        ("", ""),
        ("a/b-c.npz", "a/b-c.npz"),
        ("3\nx = 4", "3\nx = 4"),
    ],
)
def test_values_are_toml_or_words(text, value):
    assert value_of(text) == value


def test_asynchronous_rounds_are_refused_where_updates_cannot_be_applied_one_by_one(
    write, monkeypatch
):
    """All of ours can; one that is installed beside them may not."""

    class Foreign(EdgeStrategy):
        Parameters = strategies()["fedavg"].Parameters

    class Median(flower.FedMedian, FedAvg):
        """Learns in rounds as Flower's, and one by one as FedAvg."""

    known = {**strategies(), "foreign": Foreign, "median": Median}
    monkeypatch.setattr("simulations.config.strategies", lambda: known)
    rounds = "[asynchronous]\nbuffer = 2\n"
    said, median = problems(write(GOOD + 'baselines = ["local", "foreign", "median"]\n' + rounds))
    assert said.startswith("asynchronous: strategy 'foreign' cannot learn from updates one by one")
    assert "fedavg" in said
    assert "'median' cannot learn" in median
    assert "FedMedian overrides aggregate_train" in median
    load(write(GOOD + 'baselines = ["ditto", "local"]\n' + rounds))
