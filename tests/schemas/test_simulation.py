import pytest
from pydantic import ValidationError

from schemas.simulation import (
    Asynchronous,
    Cohort,
    Data,
    Engine,
    Model,
    Rehearsal,
    Simulation,
    Source,
    Synchronous,
    Upload,
)

BOUNDS = [
    (Data, "window_seconds", [0.1, 60], [0, -1, 61]),
    (Data, "overlap", [0, 0.99], [-0.1, 1]),
    (Data, "train_fraction", [0.01, 0.99], [0, 1]),
    (Data, "label_fraction", [0, 1], [-0.01, 1.01]),
    (Data, "pool", ["full", "absent", "thinned"], ["half", "", None]),
    (Data, "bout_windows", [None, 1, 100_000], [0, 100_001, 1.5]),
    (Data, "rectify", [True, False], [None, "yes, please"]),
    (Data, "source_persons", [1, 100_000], [0, 100_001, 1.5]),
    (Data, "source_days", [None, 1, 100_000], [0, 100_001, 1.5]),
    (Data, "client_days", [None, 1, 100_000], [0, 100_001, 1.5]),
    (Data, "unseen_persons", [0, 100_000], [-1, 100_001]),
    (Model, "width", [4, 256], [3, 257]),
    (Model, "latent", [4, 512], [3, 513]),
    (Model, "own_statistics", [0, 0.5, 1], [-0.1, 1.1, float("nan")]),
    (Source, "steps", [0, 1_000_000], [-1, 1_000_001]),
    (Source, "persons_per_step", [1, 256], [0, 257]),
    (Source, "windows_per_person", [2, 1024], [1, 1025]),
    (Source, "learning_rate", [1e-9, 1], [0, 1.1, float("nan")]),
    (Cohort, "size", [None, 1, 100_000], [0, 100_001]),
    (Cohort, "timeout_seconds", [0.1, 86_400], [0, 86_401, float("inf")]),
    (Upload, "encoding", ["int8", "topk", "float32"], ["int4", "", None]),
    (Upload, "topk", [1e-6, 1], [0, -0.1, 1.1, float("nan")]),
    (Upload, "max_norm", [1e-9, 1e9], [0, -1, float("inf")]),
    (Upload, "max_examples", [1, 1_000_000_000], [0, 1_000_000_001, 1.5]),
    (Engine, "workers", [None, 1, 1024], [0, 1025]),
    (Synchronous, "deadline_seconds", [0.1, 604_800], [0, 604_801]),
    (Synchronous, "min_replies", [1, 100_000], [0, 100_001]),
    (Synchronous, "give_up_after", [1, 100_000], [0, 100_001]),
    (Asynchronous, "concurrency", [None, 1, 100_000], [0, 100_001]),
    (Asynchronous, "buffer", [1, 100_000], [0, 100_001]),
    (Asynchronous, "staleness_power", [0, 10], [-0.1, 10.1]),
    (Asynchronous, "deadline_seconds", [0.1, 604_800], [0, 604_801]),
    (Asynchronous, "give_up_after", [1, 100_000], [0, 100_001]),
    (Rehearsal, "delay_seconds", [0, 604_800], [-1, 604_801]),
    (Rehearsal, "device_spread", [0, 5], [-0.1, 5.1]),
    (Rehearsal, "task_spread", [0, 5], [-0.1, 5.1]),
    (Rehearsal, "dropout", [0, 1], [-0.1, 1.1]),
    (Rehearsal, "offline_fraction", [0, 0.99], [-0.1, 1]),
    (Rehearsal, "offline_seconds", [0.1, 31_536_000], [0, 31_536_001]),
    (Simulation, "name", ["a", "A-1_b.c", "x" * 64], ["", "-a", "a/b", "..", "a\n", "x" * 65]),
    (Simulation, "seed", [0, 2**32 - 1], [-1, 2**32]),
    (Simulation, "rounds", [0, 1_000_000], [-1, 1_000_001]),
    (Simulation, "evaluate_every", [1, 1_000_000], [0, 1_000_001]),
    (Simulation, "strategy", ["fedavg"], ["", "../x", 3]),
    (Simulation, "baselines", [(), ("fedavg", "local")], [("a b",), "fedavg", (1,)]),
    (Simulation, "strategies", [{"fedavg": {"epochs": 2}}], [{"a/b": {}}, {"a": 1}, []]),
]


@pytest.mark.parametrize(
    ("cls", "key", "good", "bad"), BOUNDS, ids=[f"{row[0].__name__}.{row[1]}" for row in BOUNDS]
)
def test_bounds(bounds, cls, key, good, bad):
    bounds(cls, {"name": "run"} if cls is Simulation else {}, key, good, bad)


NUMBERS = [
    (cls, name)
    for cls in (Data, Model, Source, Cohort, Upload, Engine, Synchronous, Asynchronous, Rehearsal)
    for name, field in cls.model_fields.items()
    if any(word in str(field.annotation) for word in ("int", "float"))
]


@pytest.mark.parametrize(
    ("cls", "key"),
    [*NUMBERS, *((Simulation, key) for key in ("seed", "rounds", "evaluate_every"))],
)
def test_a_truth_value_or_a_text_is_no_number(bounds, cls, key):
    base = {"name": "run"} if cls is Simulation else {}
    bounds(cls, base, key, [], [True, False, "1"])


def test_a_whole_number_is_one_and_may_stand_for_a_real(bounds):
    bounds(Simulation, {"name": "run"}, "rounds", [1], [1.0])
    assert isinstance(Data(overlap=0).overlap, float)


MODES = [Synchronous, Asynchronous, Rehearsal]


@pytest.mark.parametrize("cls", [Data, Model, Source, Cohort, Upload, Engine, *MODES])
def test_every_bound_of_the_tables_is_among_those_tested(cls):
    bounded = {
        name
        for name, schema in cls.model_json_schema()["properties"].items()
        if any(word in str(schema) for word in ("imum", "enum", "attern"))
    }
    assert bounded <= {key for tested, key, *_ in BOUNDS if tested is cls}


@pytest.mark.parametrize("cls", [Data, Model, Source, Cohort, Upload, Engine, *MODES, Simulation])
def test_unknown_keys_are_refused(cls):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        cls.model_validate({"name": "run", "wdith": 3} if cls is Simulation else {"wdith": 3})


@pytest.mark.parametrize("table", ["data", "model", "source", "cohort", "upload", "engine"])
def test_unknown_keys_of_a_table_are_refused(table):
    with pytest.raises(ValidationError) as caught:
        Simulation.model_validate({"name": "run", table: {"wdith": 3}})
    assert caught.value.errors()[0]["loc"] == (table, "wdith")


def test_only_the_name_is_needed():
    with pytest.raises(ValidationError) as caught:
        Simulation.model_validate({})
    assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [
        (("name",), "missing")
    ]
    assert Simulation(name="run").data == Data()


@pytest.mark.parametrize(
    ("baselines", "says"),
    [
        (("fedavg", "local", "fedavg"), "fedavg stands twice in baselines: once is enough"),
        (("local", "semipfl"), "semipfl is both the strategy and a baseline: take it out of base"),
    ],
)
def test_a_strategy_stands_only_once(baselines, says):
    with pytest.raises(ValidationError, match=says):
        Simulation(name="run", strategy="semipfl", baselines=baselines)


@pytest.mark.parametrize("key", ["data", "model", "source", "cohort", "upload", "engine"])
def test_every_key_is_described(key):
    cls = type(getattr(Simulation(name="run"), key))
    assert all(field.description for field in cls.model_fields.values())


def test_a_file_without_modes_has_none_and_only_one_way_is_taken():
    plain = Simulation(name="run")
    assert plain.synchronous is plain.asynchronous is plain.rehearsal is None
    with pytest.raises(ValidationError, match=r"both \[synchronous\] and \[asynchronous\]"):
        Simulation(name="run", synchronous={}, asynchronous={})


@pytest.mark.parametrize("cls", MODES)
def test_every_key_of_the_modes_is_described(cls):
    assert all(field.description for field in cls.model_fields.values())
