"""The learner on real graphs, against sessions run by hand."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from client.graphs import GraphError
from client.learner import Learner, LearnerError
from schemas.plan import Blend, Train


def by_hand(store, stage, person, weights, anchor=None, rates=None):
    """A training stage with one batch: all windows of the part, in order."""
    session = store.session(stage.graph)
    shapes = {value.name: value.shape for value in session.get_inputs()}
    size = shapes["mask"][0]
    part = person.labelled if stage.part == "labelled" else np.arange(len(person.train))
    statistics = statistics_of(person.train)
    anchor = weights if anchor is None else anchor
    state, losses = np.zeros(shapes["state"], np.float32), []
    for rate in rates or [stage.learning_rate] * stage.steps:
        inputs = {
            "windows": person.train[part],
            **statistics,
            "learning_rate": np.array(rate, np.float32),
            "proximal": np.array(stage.proximal, np.float32),
            "anchor": anchor[:size],
            "mask": np.ones(size, np.float32),
            "weights": weights,
            "state": state,
        }
        if "labels" in shapes:
            inputs["labels"] = person.labels[part]
        loss, weights, state = session.run(None, inputs)
        losses.append(loss)
    return weights, losses


def statistics_of(x):
    lengths = [np.linalg.norm(x[..., i : i + 3], axis=-1) for i in (0, 3)]
    features = np.concatenate([x, np.stack(lengths, -1)], -1).astype(np.float64)
    return {
        "input_mean": features.mean((0, 1)).astype(np.float32),
        "input_deviation": features.std((0, 1)).astype(np.float32),
    }


def close(one, two):
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_statistics_are_of_all_training_windows(learner, plan, person):
    for name, value in learner.statistics(plan()).items():
        close(value, statistics_of(person.train)[name])


def test_statistics_are_measured_once(learner, plan, monkeypatch):
    first = learner.statistics(plan())
    monkeypatch.setattr(learner.graphs, "session", pytest.fail)
    assert learner.statistics(plan()) is first


@pytest.mark.parametrize(("part", "name"), [("labelled", "classifier"), ("unlabelled", "mlp")])
def test_a_stage_is_its_graph_run_on_its_part(
    learner, store, person, plan, train, vector, part, name
):
    stage, weights = train(part=part, steps=3), vector(name)
    fitted = learner.fit(plan(stage, network=name), weights)
    expected, losses = by_hand(store, stage, person, weights)
    close(fitted.weights, expected)
    assert fitted.loss == pytest.approx(losses[-1], rel=1e-4)
    assert fitted.examples == (9 if part == "labelled" else 24)
    assert fitted.own is None
    assert fitted.seconds > 0
    assert not np.array_equal(weights, fitted.weights)
    np.testing.assert_array_equal(weights, vector(name), "the received weights were altered")


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ({"epochs": 2, "steps": 0, "batch_size": 5}, [5, 4] * 2),
        ({"epochs": 0, "steps": 3, "batch_size": 5}, [5, 4, 5]),
        ({"epochs": 1, "steps": 3, "batch_size": 5}, [5, 4, 5]),
        ({"epochs": 2, "steps": 3, "batch_size": 5}, [5, 4] * 2),
        ({"epochs": 2, "steps": 0, "batch_size": 4}, [4, 5] * 2),  # a window over joins the others
        ({"epochs": 1, "steps": 5, "batch_size": 4}, [4, 5, 4, 5, 4]),
        ({"epochs": 1, "steps": 0, "batch_size": 8}, [9]),
        ({"epochs": 1, "steps": 0, "batch_size": 9}, [9]),
        ({"epochs": 1, "steps": 0, "batch_size": 1}, [1] * 9),
        ({"epochs": 0, "steps": 0}, []),
    ],
)
def test_epochs_and_steps(learner, plan, train, vector, monkeypatch, asked, steps):
    sizes = record(learner, monkeypatch, train().graph, "windows")
    fitted = learner.fit(plan(train(**asked)), vector())
    assert [x.shape[0] for x in sizes] == steps
    assert (fitted.loss == 0) == (not steps)


def test_running_variances_do_not_shrink_over_a_window_that_is_left(
    learner, plan, train, vector, digest, network
):
    """Nine windows in batches of four: normalised alone, the ninth would have a variance of 0."""
    from hypernet.parameters import ParameterSpec

    ((start, stop),) = ParameterSpec.of(network("classifier")).ranges(
        lambda name: name == "encoder.norm4.var"
    )
    graph = digest("step", "classifier", "adam", "batch")
    by_four = train(graph=graph, steps=0, epochs=20, batch_size=4, learning_rate=1e-9)
    whole = by_four.model_copy(update={"batch_size": 9, "epochs": 40})
    cut, uncut = (learner.fit(plan(s), vector()).weights[start:stop] for s in (by_four, whole))
    assert (cut > 0.75 * uncut).all()


def record(learner, monkeypatch, digest, name):
    """All that a graph gets under a name, in order."""
    seen, real = [], learner.graphs.session(digest)

    class Recorder:
        get_inputs = real.get_inputs

        def run(self, names, inputs):
            seen.append(np.array(inputs[name]))
            return real.run(names, inputs)

    monkeypatch.setitem(learner.graphs._sessions, digest, Recorder())
    return seen


def test_every_pass_sees_every_window_of_the_part_once(
    learner, plan, train, vector, person, monkeypatch
):
    seen = record(learner, monkeypatch, train().graph, "windows")
    learner.fit(plan(train(epochs=3, steps=0, batch_size=4)), vector())
    expected = sorted(person.train[person.labelled].sum((1, 2)).tolist())
    orders = []
    for number in range(3):
        rows = np.concatenate(seen[2 * number : 2 * number + 2]).sum((1, 2)).tolist()
        assert sorted(rows) == expected
        orders.append(tuple(rows))
    assert len(set(orders)) > 1, "never shuffled"


def test_labels_go_with_their_windows(learner, plan, train, vector, person, monkeypatch):
    x = record(learner, monkeypatch, train().graph, "windows")
    learner.fit(plan(train(epochs=1, steps=0, batch_size=4)), vector())
    monkeypatch.undo()
    y = record(learner, monkeypatch, train().graph, "labels")
    learner.fit(plan(train(epochs=1, steps=0, batch_size=4)), vector())
    label_of = {float(w.sum()): label for w, label in zip(person.train, person.labels, strict=True)}
    for windows, labels in zip(x, y, strict=True):
        assert [label_of[float(w.sum())] for w in windows] == labels.tolist()
        assert labels.dtype == np.int64


def test_one_salt_gives_one_order(learner, plan, train, vector, person, store):
    batched = plan(train(epochs=2, batch_size=4), seed=5)
    first = learner.fit(batched, vector(), salt=7)
    again = Learner(person, store).fit(batched, vector(), salt=7)
    np.testing.assert_array_equal(first.weights, again.weights)
    assert first.loss == again.loss
    assert not np.array_equal(first.weights, learner.fit(batched, vector(), salt=8).weights)
    reseeded = batched.model_copy(update={"seed": 6})
    assert not np.array_equal(first.weights, learner.fit(reseeded, vector(), salt=7).weights)


def test_stages_run_one_after_the_other(learner, plan, train, adapt, vector):
    first, second = adapt(mix=1.0), train()
    half = learner.fit(plan(first), vector()).weights
    expected = learner.fit(plan(second), half).weights
    np.testing.assert_array_equal(learner.fit(plan(first, second), vector()).weights, expected)
    assert not np.array_equal(learner.fit(plan(second, first), vector()).weights, expected)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_blend_keeps_a_share_of_what_changed(learner, plan, train, adapt, vector, share):
    stages, start = (adapt(), train(), train()), vector()
    adapted = learner.fit(plan(*stages[:1]), start).weights
    learned = learner.fit(plan(*stages), start).weights
    blended = learner.fit(plan(*stages, Blend(since=1, share=share)), start).weights
    close(blended, adapted + share * (learned - adapted))
    assert not np.array_equal(learned, adapted)
    labelled = learner.windows.labelled.size
    few = Blend(since=1, share=share, at_most=labelled - 1)
    np.testing.assert_array_equal(learner.fit(plan(*stages, few), start).weights, learned)
    enough = Blend(since=1, share=share, at_most=labelled)
    np.testing.assert_array_equal(learner.fit(plan(*stages, enough), start).weights, blended)


def test_a_blend_of_the_own_vector_looks_back_at_it(learner, plan, train, vector):
    start = vector()
    own = start + np.float32(0.1)
    learned = learner.fit(plan(own=(train(),)), start, own).own
    blended = learner.fit(plan(own=(train(), Blend(since=0, share=0.5))), start, own).own
    close(blended, (own + learned) / 2)


def test_cosine_lets_the_rate_fall(learner, store, plan, train, vector, person):
    fitted = learner.fit(plan(train(steps=4, cosine=True)), vector())
    rates = [0.01 * (1 + np.cos(np.pi * step / 4)) / 2 for step in range(4)]
    expected, _ = by_hand(store, train(), person, vector(), rates=rates)
    close(fitted.weights, expected)


def test_the_proximal_term_pulls_to_the_stages_start(learner, store, plan, train, vector, person):
    stage = train(proximal=5.0, steps=3)
    close(learner.fit(plan(stage), vector()).weights, by_hand(store, stage, person, vector())[0])
    two = learner.fit(plan(train(), stage), vector())
    start = learner.fit(plan(train()), vector()).weights
    close(two.weights, by_hand(store, stage, person, start)[0])


def test_only_the_trainable_ranges_learn(learner, plan, train, vector):
    weights = vector()
    fitted = learner.fit(plan(train(trainable=((3, 40), (100, 101)))), weights)
    moved = np.flatnonzero(fitted.weights != weights)
    assert set(moved) <= {*range(3, 40), 100}
    assert moved.size > 20


@pytest.mark.parametrize(
    ("limits", "runs"),
    [
        ({"at_least": 9}, True),
        ({"at_least": 10}, False),
        ({"at_most": 9}, True),
        ({"at_most": 8}, False),
    ],
)
def test_at_least_and_at_most_count_the_parts_windows(learner, plan, train, vector, limits, runs):
    fitted = learner.fit(plan(train(**limits)), vector())
    assert np.array_equal(fitted.weights, vector()) is not runs
    assert fitted.examples == (9 if runs else 0)


def test_without_labels_the_stage_is_skipped(person, store, plan, train, adapt, vector):
    bare = Learner(replace(person, labels=np.full(24, -1)), store)
    fitted = bare.fit(plan(adapt(), train()), vector())
    np.testing.assert_array_equal(fitted.weights, bare.fit(plan(adapt()), vector()).weights)
    assert (fitted.loss, fitted.examples) == (0.0, 0)


def test_a_stage_for_everyone_on_labels_that_nobody_has_is_skipped(
    person, store, plan, train, vector
):
    bare = Learner(replace(person, labels=np.full(24, -1)), store)
    fitted = bare.fit(plan(train(at_least=0, steps=5)), vector())
    np.testing.assert_array_equal(fitted.weights, vector())


class Poisoned(np.ndarray):
    """An array that fails the test when one of the forbidden entries is taken."""

    allowed: tuple[int, ...] = ()

    def __array_finalize__(self, obj):
        self.allowed = getattr(obj, "allowed", ())

    def __getitem__(self, key):
        taken = np.arange(self.size)[key]
        assert set(np.atleast_1d(taken)) <= set(self.allowed), "a label was read"
        return np.asarray(self)[key]

    def astype(self, *arguments, **keywords):
        pytest.fail("all labels were read")


def poisoned(labels, allowed):
    array = labels.view(Poisoned)
    array.allowed = tuple(allowed)
    return array


def test_labels_of_unlabelled_windows_are_never_read(
    person, store, plan, train, adapt, vector, digest
):
    report = {"latent": digest("forward", "classifier", "forward")}
    labelled = plan(adapt(), train(epochs=2, batch_size=4), report=report)
    honest = Learner(person, store).fit(labelled, vector())
    wary = replace(person, labels=poisoned(person.labels, person.labelled))
    np.testing.assert_array_equal(
        Learner(wary, store).fit(labelled, vector()).weights, honest.weights
    )


def test_an_unlabelled_stage_reads_no_label_at_all(person, store, plan, train, vector):
    unlabelled = plan(train(part="unlabelled", epochs=1, batch_size=5), network="mlp")
    honest = Learner(person, store).fit(unlabelled, vector("mlp"))
    blind = Learner(replace(person, labels=poisoned(person.labels, ())), store)
    np.testing.assert_array_equal(blind.fit(unlabelled, vector("mlp")).weights, honest.weights)


def test_an_unlabelled_stage_cannot_name_a_graph_that_reads_labels(learner, plan, train, vector):
    stage = train(part="unlabelled", graph=train().graph)
    with pytest.raises(LearnerError, match="whose graph reads labels"):
        learner.fit(plan(stage), vector())


STEP = """<ir_version: 8, opset_import: ["" : 18]>
step (float[batch, 20, 6] windows, int64[batch] labels, float[batch, 3] targets,
      float[8] input_mean, float[8] input_deviation, float learning_rate, float proximal,
      float[2] anchor, float[2] mask, float[length] weights, float[1] state)
  => (float loss, float[length] new_weights, float[1] new_state)
{
  zero = Constant <value_float = 0.0> ()
  loss = Identity (zero)
  sums = ReduceSum <keepdims = 0> (targets)
  new_weights = Identity (weights)
  counted = Cast <to = 1> (labels)
  total = ReduceSum <keepdims = 1> (counted)
  one = Constant <value_ints = [1]> ()
  flat = Reshape (total, one)
  new_state = Add (state, flat)
}"""


@pytest.fixture
def soft(store, digest):
    """A stage over all windows that takes labels and soft targets, and learns nothing."""
    model = onnx.parser.parse_model(STEP)
    graph = store.put(model.SerializeToString())
    targets = digest("forward", "classifier", "forward")
    rest = {"learning_rate": 0.1, "epochs": 1, "batch_size": 5}
    return Train(graph=graph, part="all", targets=targets, **rest)


def test_soft_targets_are_of_the_windows_beside_them(
    learner, plan, vector, soft, person, monkeypatch
):
    logits = learner.predict(plan(), vector(), person.train)
    seen = {}
    for name in ("windows", "targets", "labels"):
        with monkeypatch.context() as patch:
            seen[name] = record(learner, patch, soft.graph, name)
            learner.fit(plan(soft), vector())
    row_of = {float(w.sum()): row for row, w in enumerate(person.train)}
    rows = [[row_of[float(w.sum())] for w in batch] for batch in seen["windows"]]
    assert sorted(row for batch in rows for row in batch) == list(range(24))
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(seen["targets"][number], logits[row])
        np.testing.assert_array_equal(seen["labels"][number], person.labels[row])


TEACH = """<ir_version: 8, opset_import: ["" : 18]>
teach (float[batch, 20, 6] windows, int64[batch] labels, float[8] input_mean,
       float[8] input_deviation, float[length] weights) => (float[batch, 3] rows)
{
  counted = Cast <to = 1> (labels)
  ones = Constant <value_ints = [-1, 1]> ()
  own = Reshape (counted, ones)
  nought = Constant <value_float = 0.0> ()
  alike = Mul (own, nought)
  unit = Constant <value_float = 1.0> ()
  one_each = Add (alike, unit)
  axis = Constant <value_int = 0> ()
  number = CumSum (one_each, axis)
  axes = Constant <value_ints = [1, 2]> ()
  sums = ReduceSum <keepdims = 0> (windows, axes)
  sum = Reshape (sums, ones)
  rows = Concat <axis = 1> (number, own, sum)
}"""


@pytest.mark.parametrize("piece", [2048, 10])
def test_a_graph_that_reads_labels_teaches_from_the_stream_as_it_was(
    learner, store, plan, vector, soft, person, monkeypatch, piece
):
    monkeypatch.setattr("client.learner.STREAM", piece)
    teacher = store.put(onnx.parser.parse_model(TEACH).SerializeToString())
    stage = soft.model_copy(update={"targets": teacher, "at_least": 0})
    seen = record(learner, monkeypatch, soft.graph, "targets")
    learner.fit(plan(stage), vector())
    rows = np.concatenate(seen)
    row_of = {round(float(w.sum()), 2): row for row, w in enumerate(person.train)}
    at = [row_of[round(float(total), 2)] for total in rows[:, 2]]
    assert sorted(at) == list(range(24))
    np.testing.assert_array_equal(rows[:, 0], np.array(at) % piece + 1)  # its place in the piece
    np.testing.assert_array_equal(rows[:, 1], person.labels[at])


def test_a_stage_for_everyone_runs_without_a_label(person, store, plan, vector, soft):
    nobody = replace(person, labels=np.full(24, -1))
    for least, examples in ((0, 24), (1, 0)):
        stage = soft.model_copy(update={"at_least": least})
        assert Learner(nobody, store).fit(plan(stage), vector()).examples == examples


def test_a_stage_on_all_windows_counts_the_labelled_ones(person, store, plan, vector, soft):
    stage = soft.model_copy(update={"at_least": 9})
    assert Learner(person, store).fit(plan(stage), vector()).examples == 24
    fewer = stage.model_copy(update={"at_least": 10})
    assert Learner(person, store).fit(plan(fewer), vector()).examples == 0


@pytest.mark.parametrize("most", [5, 24, 100])
def test_adapt_takes_at_most_so_many_windows_evenly_spread(
    learner, plan, adapt, vector, person, monkeypatch, most
):
    seen = record(learner, monkeypatch, adapt().graph, "windows")
    learner.fit(plan(adapt(windows=most)), vector())
    rows = np.linspace(0, 23, min(24, most)).astype(int)
    np.testing.assert_array_equal(seen[0], person.train[rows])


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_adapt_mixes_by_the_plan(learner, store, plan, adapt, vector, person, mix):
    (expected,) = store.session(adapt().graph).run(
        None,
        {
            "windows": person.train,
            **statistics_of(person.train),
            "weights": vector(),
            "mix": np.array(mix, np.float32),
        },
    )
    close(learner.fit(plan(adapt(mix=mix)), vector()).weights, expected)


def test_the_own_vector_learns_beside_and_is_anchored_at_the_received(
    learner, store, plan, train, vector, person
):
    stage, own = train(), train(proximal=10.0, steps=3)
    ditto = plan(stage, own=(own,))
    first = learner.fit(ditto, vector())
    close(first.weights, by_hand(store, stage, person, vector())[0])
    close(first.own, by_hand(store, own, person, vector())[0])
    kept = vector() + 0.1
    second = learner.fit(ditto, vector(), kept)
    close(second.own, by_hand(store, own, person, kept, anchor=vector())[0])
    np.testing.assert_array_equal(second.weights, first.weights)


def test_an_own_vector_that_no_stage_touched_is_none(learner, plan, train, vector):
    """Kept, it would predict for ever with the weights that were received first."""
    own = (train(at_least=1_000_000),)
    assert learner.fit(plan(own=own), vector()).own is None
    close(learner.fit(plan(own=own), vector(), vector() + 1).own, vector() + 1)


def test_reports_are_made_with_the_learned_weights(learner, plan, train, vector, digest, person):
    predict = digest("forward", "classifier", "forward")
    report = plan(train(), report={"logits": predict})
    fitted = learner.fit(report, vector())
    assert list(fitted.report) == ["logits"]
    logits = learner.predict(report, fitted.weights, person.train)
    close(fitted.report["logits"], logits)


def test_predict_joins_batches(learner, plan, vector, windows):
    x = windows(600, 9)
    logits = learner.predict(plan(), vector(), x)
    assert logits.shape == (600, 3)
    close(logits[255:258], learner.predict(plan(), vector(), x[255:258]))


def test_evaluate_counts_right_and_wrong(learner, plan, vector, person):
    logits = learner.predict(plan(), vector(), person.test)
    expected = np.zeros((3, 3), int)
    for true, row in zip(person.test_labels, logits, strict=True):
        expected[true, row.argmax()] += 1
    confusion = learner.evaluate(plan(), vector())
    np.testing.assert_array_equal(confusion, expected)
    assert confusion.sum(1).tolist() == [3, 2, 2]


NAN = np.float32("nan")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda w: w[:-1], "the plan says float32"),
        (lambda w: np.append(w, NAN), "the plan says float32"),
        (lambda w: w[None], "the plan says float32"),
        (lambda w: w.astype(np.float64), "weights are float64"),
        (lambda w: w.astype(">f4"), "weights are >f4"),
        (lambda w: np.where(np.arange(w.size) == 7, NAN, w), "NaN or infinity"),
        (lambda w: np.where(np.arange(w.size) == 7, -np.float32("inf"), w), "NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_refused(learner, plan, train, vector, harm, message):
    with pytest.raises(LearnerError, match=message):
        learner.fit(plan(train()), harm(vector()))
    with pytest.raises(LearnerError, match=message):
        learner.fit(plan(train(), own=(train(),)), vector(), harm(vector()))


def test_learning_that_ends_in_nan_is_refused(learner, plan, train, vector):
    with pytest.raises(LearnerError, match="learning ended in NaN"):
        learner.fit(
            plan(train(part="unlabelled", steps=60, learning_rate=10), network="mlp"),
            vector("mlp") * 100,
        )


def test_a_broken_sensors_nan_does_not_leave_the_device(person, store, plan, adapt, vector):
    broken = person.train.copy()
    broken[3, 4, 5] = NAN
    with pytest.raises(LearnerError, match="learning ended in NaN"):
        Learner(replace(person, train=broken), store).fit(plan(adapt()), vector())


@pytest.mark.parametrize("shape", [(0, 20, 6), (24, 19, 6), (24, 20, 5)])
def test_windows_that_do_not_fit_the_plan_are_refused(person, store, plan, adapt, vector, shape):
    other = replace(person, train=np.ones(shape, np.float32), labels=np.full(shape[0], -1))
    with pytest.raises(LearnerError, match=r"training windows are \[.*the plan's take"):
        Learner(other, store).fit(plan(adapt()), vector())


@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 0, 1, 2, -1]])
def test_test_labels_out_of_range_are_refused(person, store, plan, vector, labels):
    with pytest.raises(LearnerError, match="expected 0 to 2"):
        Learner(replace(person, test_labels=np.array(labels)), store).evaluate(plan(), vector())


def test_no_test_windows_no_evaluation(person, store, plan, vector):
    none = replace(person, test=person.test[:0], test_labels=person.test_labels[:0])
    with pytest.raises(LearnerError, match="no test windows"):
        Learner(none, store).evaluate(plan(), vector())


def test_an_answer_of_nan_is_no_class(person, store, plan, vector):
    """A negative running variance, say: it would be counted as class 0."""
    test = person.test.copy()
    test[[0, 2], 3, 1] = NAN
    with pytest.raises(LearnerError, match="answers to 2 of 7 test windows are NaN"):
        Learner(replace(person, test=test), store).evaluate(plan(), vector())


def test_a_plan_without_a_graph_to_predict_with(learner, plan, vector):
    with pytest.raises(LearnerError, match="names no graph"):
        learner.evaluate(plan(predict=None), vector())


def test_a_graph_that_is_not_here(learner, plan, train, vector):
    with pytest.raises(GraphError, match="is not on this device"):
        learner.fit(plan(train(graph="0" * 64)), vector())


def test_float16_windows_learn_as_float32(person, store, plan, train, vector):
    half = replace(person, train=person.train.astype(np.float16))
    single = replace(person, train=half.train.astype(np.float32))
    one, two = (Learner(p, store).fit(plan(train()), vector()).weights for p in (half, single))
    np.testing.assert_array_equal(one, two)
