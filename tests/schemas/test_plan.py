import pytest
from pydantic import ValidationError

from schemas.plan import Adapt, Blend, Plan, Train

A, B, C, D, E = (letter * 64 for letter in "abcde")
TRAIN = {"graph": A, "part": "labelled", "learning_rate": 0.1}
BLEND = {"since": 0, "share": 0.5}
PLAN = {"length": 10, "statistics": A}

BOUNDS = [
    (Train, TRAIN, "graph", [A, "0123456789abcdef" * 4], ["", "A" * 64, A + "0", A[:-1], A + "\n"]),
    (Train, TRAIN, "part", ["labelled", "unlabelled", "all"], ["test", None]),
    (Train, TRAIN, "epochs", [0, 10_000], [-1, 10_001]),
    (Train, TRAIN, "steps", [0, 1_000_000], [-1, 1_000_001]),
    (Train, TRAIN, "batch_size", [1, 65_536], [0, 65_537]),
    (Train, TRAIN, "learning_rate", [1e-9, 10], [0, -1, 10.1, float("nan")]),
    (Train, TRAIN, "proximal", [0, 1e3], [-1e-9, float("inf")]),
    (Train, TRAIN, "trainable", [None, (), [(0, 1)]], [[(-1, 2)], [(1,)], [(0, 1, 2)], [0, 1]]),
    (Train, TRAIN, "at_least", [0, 1, 10**9], [-1]),
    (Train, TRAIN, "at_most", [None, 1], [0]),
    (Adapt, {"graph": A}, "graph", [A], ["../../etc/passwd", "g" * 64]),
    (Adapt, {"graph": A}, "mix", [0, 1], [-0.1, 1.1, float("nan")]),
    (Adapt, {"graph": A}, "windows", [1, 65_536], [0, 65_537]),
    (Blend, BLEND, "since", [0, 5], [-1, 0.5]),
    (Blend, BLEND, "share", [0, 1], [-0.1, 1.1, float("nan")]),
    (Blend, BLEND, "at_most", [None, 0], [-1]),
    (Plan, PLAN, "length", [1, 1_000_000_000], [0, 1_000_000_001]),
    (Plan, PLAN, "statistics", [B], ["", "../x"]),
    (Plan, PLAN, "predict", [None, B], ["x"]),
    (Plan, PLAN, "report", [{}, {"latent": B}], [{"latent": "x"}, [B]]),
    (Plan, PLAN, "encoding", ["int8", "topk", "float32"], ["float16"]),
    (Plan, PLAN, "topk", [1e-6, 1], [0, -0.1, 1.1, float("nan")]),
    (Plan, PLAN, "seed", [0, 2**64], [-1]),
    (Plan, PLAN, "personal", [(), [(0, 1)]], [[(-1, 2)], [(0.5, 2)]]),
    (Plan, PLAN, "unsent", [None, (), [(0, 1)]], [[(-1, 2)], [(0.5, 2)]]),
]


@pytest.mark.parametrize(
    ("cls", "base", "key", "good", "bad"),
    BOUNDS,
    ids=[f"{row[0].__name__}.{row[2]}" for row in BOUNDS],
)
def test_bounds(bounds, cls, base, key, good, bad):
    bounds(cls, base, key, good, bad)


@pytest.mark.parametrize(
    ("cls", "base"), [(Train, TRAIN), (Adapt, {"graph": A}), (Blend, BLEND), (Plan, PLAN)]
)
def test_unknown_keys_are_refused(cls, base):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        cls.model_validate({**base, "grahp": A})


@pytest.mark.parametrize("bad", [(0, 11), (3, 3), (5, 2), (10, 11)])
@pytest.mark.parametrize("where", ["personal", "unsent", "stages", "own"])
def test_ranges_lie_in_the_vector(where, bad):
    def plan(extent):
        plain = where in ("personal", "unsent")
        content = [extent] if plain else [Train(**TRAIN, trainable=[extent])]
        return Plan.model_validate({**PLAN, where: content})

    plan((0, 10))
    plan((9, 10))
    with pytest.raises(ValidationError, match=f"range {bad[0]}:{bad[1]} does not lie in 0:10"):
        plan(bad)


def test_what_stays_is_personal_or_unsent_and_plans_without_it_do_not_name_it():
    plan = Plan(**PLAN, personal=((0, 2),), unsent=((4, 10),))
    assert plan.staying == ((0, 2), (4, 10))
    assert Plan.model_validate_json(plan.model_dump_json(exclude_none=True)) == plan
    plain = Plan(**PLAN)
    assert plain.staying == ()
    assert "unsent" not in plain.model_dump_json(exclude_none=True), "older devices refuse it"


def test_what_is_carried_is_kept_beside_adapters():
    drift = {"backbone": A, "threshold": 0.5}
    plan = Plan.model_validate({**PLAN, "drift": drift, "carried": [(0, 3)]})
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    with pytest.raises(ValidationError, match="range 3:11 does not lie in 0:10"):
        Plan.model_validate({**PLAN, "drift": drift, "carried": [(3, 11)]})
    with pytest.raises(ValidationError, match="only a device that keeps adapters"):
        Plan.model_validate({**PLAN, "carried": [(0, 3)]})


@pytest.mark.parametrize("kind", ["train", "adapt", "shell", None])
def test_a_stage_is_known_by_its_kind(kind):
    stage = {"train": TRAIN, "adapt": {"graph": A}}.get(kind, TRAIN)
    if kind in ("train", "adapt"):
        plan = Plan.model_validate({**PLAN, "stages": [{**stage, "kind": kind}]})
        assert type(plan.stages[0]) is {"train": Train, "adapt": Adapt}[kind]
    else:
        with pytest.raises(ValidationError):
            Plan.model_validate({**PLAN, "stages": [{**stage, "kind": kind}]})


def test_a_plan_survives_its_journey_as_json():
    stages = (Adapt(graph=B, mix=0.25), Train(**TRAIN, trainable=((0, 3), (5, 10)), at_most=90))
    plan = Plan(**PLAN, stages=stages, own=stages[1:], personal=((0, 4),), report={"q": C})
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("at_least", "at_most", "suited"),
    [(1, None, {1, 2, 3, 4, 5}), (3, None, {3, 4, 5}), (1, 2, {1, 2}), (2, 4, {2, 3, 4})],
)
def test_suits(at_least, at_most, suited):
    stage = Train(**TRAIN, at_least=at_least, at_most=at_most)
    assert {count for count in range(6) if stage.suits(count)} == suited


def test_graphs_are_all_that_a_device_needs():
    train, adapt = Train(**{**TRAIN, "graph": B}), Adapt(graph=C)
    plan = Plan(**PLAN, stages=(adapt,), own=(train,), predict=D, report={"q": E})
    assert plan.graphs() == {A, B, C, D, E}
    assert Plan(**PLAN).graphs() == {A}


@pytest.mark.parametrize("where", ["stages", "own"])
def test_a_blend_looks_back(where):
    adapt, blend = Adapt(graph=B), Blend(since=1, share=0.5)
    plan = Plan(**PLAN, **{where: (adapt, adapt, blend)})
    assert plan.graphs() == {A, B}
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    for stages in ((blend,), (adapt, blend), (adapt, adapt, Blend(since=2, share=0.5))):
        with pytest.raises(ValidationError, match="which is not past"):
            Plan(**PLAN, **{where: stages})


def test_with_proximal_reaches_every_training_stage_and_nothing_else():
    train, adapt = Train(**TRAIN), Adapt(graph=C)
    plan = Plan(**PLAN, stages=(train, adapt, train), own=(train,), seed=4)
    changed = plan.with_proximal(0.5)
    assert [getattr(stage, "proximal", None) for stage in changed.stages] == [0.5, None, 0.5]
    assert changed.own == plan.own
    assert changed.model_copy(update={"stages": plan.stages}) == plan


@pytest.mark.parametrize("proximal", [-1.0, float("nan"), float("inf")])
def test_with_proximal_keeps_the_bounds(proximal):
    with pytest.raises(ValidationError):
        Plan(**PLAN, stages=(Train(**TRAIN),)).with_proximal(proximal)
