"""The rounds of a strategy: faults left out and named, records, checkpoints, the unseen."""

import itertools
import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import strategy as flower

from schemas.plan import Plan
from server.border import payload, weights_of
from server.checkpoint import Checkpoint, CheckpointError
from server.outcome import Outcome
from server.rounds import Rounds, RoundsError, Watch, outcome_of, progress_of
from server.strategies.averaging import FedAvg
from server.strategies.base import request
from server.strategies.local import SourceModel
from server.strategies.pfedhn import PFedHN

PERSONS = {1: "Ann", 2: "Bo", 3: "Cy", 4: "Di"}
UNSEEN = {8: "Yu", 9: "Zoe"}


class Kept:
    """A watch that keeps all that it is told."""

    def __init__(self):
        self.records, self.checkpoints, self.lines = [], [], []

    def watch(self):
        def score(confusion):
            return float(np.trace(confusion) / confusion.sum())

        return Watch(self.records.append, self.checkpoints.append, score, self.lines.append)


@pytest.fixture
def go(federation, devices, trained, counted):
    """Run a strategy on devices that train, unless a test's function says otherwise."""

    def run(cls=FedAvg, answer=None, resume=None, rounds=2, unseen=UNSEEN, nodes=None, **config):
        strategy = cls(federation(rounds=rounds, **config), cls.Parameters())

        def default(message):
            if message.metadata.message_type == "train":
                node = message.metadata.dst_node_id
                return trained(message, np.full(weights_of(message).size, 0.01 * node))
            if message.metadata.message_type == "evaluate":
                return counted(message)
            return Message(Error(1, "no query"), reply_to=message)

        def reply(message):
            return answer(message, default) if answer else default(message)

        grid, kept = devices([*PERSONS, *UNSEEN], reply), Kept()
        grid.nodes = grid.nodes if nodes is None else nodes
        loop = Rounds("it", strategy, grid, PERSONS, unseen, rounds, kept.watch(), "id")
        return loop.run(resume), kept, grid

    return run


def sent(grid, kind):
    return [m for m in grid.sent if m.metadata.message_type == kind]


def test_updates_bytes_and_seconds_add_up(go):
    outcome, _, _ = go()
    assert outcome.client_updates == 8
    assert outcome.device_seconds == pytest.approx(8 * 0.25)
    assert outcome.bytes_down == sum(r.bytes_down for r in outcome.rounds) > 0
    assert outcome.bytes_up == sum(r.bytes_up for r in outcome.rounds) > 0
    assert [(r.round, r.cohort, r.loss, r.failures) for r in outcome.rounds] == [
        (1, 4, 0.5, 0),
        (2, 4, 0.5, 0),
    ]
    assert sorted(outcome.confusion) == sorted(PERSONS.values())
    assert sorted(outcome.unseen) == sorted(UNSEEN.values())
    assert not outcome.failures


def test_a_clients_own_model_is_timed(go):
    outcome, _, _ = go()
    assert outcome.evaluations == len(PERSONS)
    assert outcome.evaluation_seconds == pytest.approx(0.1 * outcome.evaluations)


@pytest.mark.parametrize("seconds", [None, [0.1], float("nan"), -1.0, 1e12])
def test_a_device_that_lies_about_its_time_is_judged_and_not_timed(go, counted, seconds):
    def answer(message, good):
        reply = good(message)
        if message.metadata.message_type == "evaluate":
            metrics = reply.content["metrics"]
            del metrics["seconds"]
            if seconds is not None:
                metrics["seconds"] = seconds
        return reply

    outcome, _, _ = go(answer=answer)
    assert len(outcome.confusion) == len(PERSONS)
    assert (outcome.evaluations, outcome.evaluation_seconds) == (0, 0)


def test_who_learned_from_no_window_has_no_loss(go, trained):
    def answer(message, good):
        if message.metadata.message_type != "train" or message.metadata.dst_node_id not in told:
            return good(message)
        return trained(message, examples=0, loss=0.0)

    told = {1, 2}
    outcome, _, _ = go(answer=answer, rounds=1)
    assert (outcome.client_updates, outcome.rounds[0].loss) == (4, 0.5)
    told = set(PERSONS)
    outcome, _, _ = go(answer=answer, rounds=1)
    assert outcome.client_updates == 4
    assert math.isnan(outcome.rounds[0].loss)


def test_the_unseen_are_never_trained(go):
    for cls in (FedAvg, PFedHN):
        _, _, grid = go(cls, rounds=3)
        assert {m.metadata.dst_node_id for m in sent(grid, "train")} == set(PERSONS)
        evaluated = [m.metadata.dst_node_id for m in sent(grid, "evaluate")]
        assert sorted(n for n in evaluated if n in UNSEEN) == sorted(UNSEEN)


def installing(lacks):
    """An answer of devices that lack graphs until they are sent them."""
    asked = []

    def answer(message, good):
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        if not kind.startswith("query."):
            if node in lacks and kind == "train":
                return Message(Error(1, "GraphError: it is not on this device"), reply_to=message)
            return good(message)
        asked.append((kind, node))
        if kind == "query.install":
            lacks.discard(node)
        missing = ["0" * 64] if node in lacks and kind == "query.graphs" else []
        missing = missing and message.content["graphs"]["digests"][:1]
        return Message(RecordDict({"graphs": ConfigRecord({"missing": missing})}), reply_to=message)

    return answer, asked


def test_a_device_that_comes_later_is_brought_the_graphs(federation, devices, go):
    lacks, here = {3}, [1, 2]
    answer, asked = installing(lacks)

    def late(message, good):
        if message.metadata.message_type == "train" and 3 not in grid_nodes:
            grid_nodes.append(3)
        return answer(message, good)

    grid_nodes = here
    outcome, _, _ = go(answer=late, rounds=3, unseen={}, nodes=grid_nodes)
    assert asked.count(("query.install", 3)) == 1
    assert outcome.failures == {}
    assert [record.cohort for record in outcome.rounds] == [2, 3, 3]


def test_a_device_that_lost_its_graphs_is_brought_them_again(go):
    lacks = set()
    answer, asked = installing(lacks)

    def losing(message, good):
        if message.metadata.message_type == "train" and not lost:
            lost.append(1)
            lacks.add(2)
        return answer(message, good)

    lost = []
    outcome, _, _ = go(answer=losing, rounds=3, unseen={})
    assert outcome.dropped == {"Bo": 1}
    assert asked.count(("query.install", 2)) == 1
    assert asked.count(("query.graphs", 1)) == 1  # who did well is not asked again


def test_no_two_devices_share_a_record_or_an_array(go):
    for cls in (FedAvg, PFedHN, SourceModel):
        _, _, grid = go(cls)
        for kind in ("train", "evaluate"):
            messages = sent(grid, kind)
            for part in ("arrays", "config"):
                assert len({id(m.content[part]) for m in messages}) == len(messages)
            arrays = [m.content["arrays"]["weights"] for m in messages]
            assert len({id(array) for array in arrays}) == len(messages)
            if messages:
                messages[0].content["config"]["plan"] = "other"
                arrays[0].data = b"other"
                assert all(m.content["config"]["plan"] != "other" for m in messages[1:])
                assert all(array.data != b"other" for array in arrays[1:])


def spoiled(answer):
    """Scales of NaN, in a change that is well-formed otherwise."""
    coded = dict(answer.content.array_records["delta"])
    coded["scales"] = Array(np.full_like(coded["scales"].numpy(), np.nan))
    answer.content["delta"] = ArrayRecord(coded)
    return answer


def test_faults_are_left_out_counted_and_named_and_the_run_goes_on(go, trained):
    def answer(message, good):
        kind, node = message.metadata.message_type, message.metadata.dst_node_id
        if kind == "train" and node == 1:
            return Message(Error(1, "ValueError: two\nlines"), reply_to=message)
        if kind == "train" and node == 2:
            return spoiled(trained(message))
        if kind == "train" and node == 3:
            return None
        return good(message)

    outcome, kept, _ = go(answer=answer)
    assert outcome.client_updates == 2
    assert [r.failures for r in outcome.rounds] == [3, 3]
    assert outcome.failures["Ann"] == [
        "round 1: ValueError: two | lines",
        "round 2: ValueError: two | lines",
    ]
    assert "NaN" in outcome.failures["Bo"][0]
    assert outcome.failures["Cy"] == [f"round {n}: no reply within 60 s" for n in (1, 2)]
    assert sorted(outcome.failures) == ["Ann", "Bo", "Cy"]
    assert len(kept.lines) == 3  # one a person, not one a fault
    assert all("\n" not in line for line in kept.lines)
    assert "it: Ann left out of round 1: ValueError: two | lines" in kept.lines
    assert len(outcome.confusion) == 4


class Wide(FedAvg):
    """Returns what its ``made`` makes of the mean, as a strategy of somebody else may."""

    made = staticmethod(np.float64)

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        return ArrayRecord({"weights": Array(self.made(arrays["weights"].numpy()))}), metrics


def test_floats_of_another_width_reach_the_devices_as_float32(go):
    narrow, _, _ = go(FedAvg, rounds=3)
    outcome, _, grid = go(Wide, rounds=3)
    assert not outcome.failures
    assert outcome.client_updates == narrow.client_updates == 12
    dtypes = {weights_of(message).dtype for message in grid.sent if "arrays" in message.content}
    assert dtypes == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda w: w.astype(np.int64), r"weights int64\[\d+\]; expected weights float32\[\d+\]"),
        (lambda w: w[:-1], r"weights float32\[\d+\]; expected weights float32\[\d+\]"),
        (lambda w: w[None], r"weights float32\[1, \d+\]; expected weights float32\[\d+\]"),
        (lambda w: w * np.float32("nan"), r"weights float32\[\d+\] that hold NaN or infinity"),
        (lambda w: w.astype(float) + 1e300, r"weights float64\[\d+\] that hold NaN or infinity"),
    ],
)
def test_weights_that_no_device_takes_are_the_strategy_s_fault(go, monkeypatch, made, said):
    monkeypatch.setattr(Wide, "made", staticmethod(made))
    with pytest.raises(RoundsError, match=f"^strategy 'it' returned {said}"):
        go(Wide)


def test_a_start_or_arrays_of_other_names_are_the_strategy_s_fault_too(go):
    class Named(FedAvg):
        def initial(self):
            return ArrayRecord({"head": Array(np.zeros(3, np.float32))})

    with pytest.raises(RoundsError, match="returned arrays named head; expected weights float32"):
        go(Named)


def test_who_says_more_examples_than_configured_is_left_out(go):
    for most, failures in ((10, 0), (9, 4)):
        outcome, _, _ = go(rounds=1, max_examples=most)
        assert outcome.rounds[0].failures == failures


def test_a_round_in_which_all_fail_keeps_the_model(go):
    def answer(message, good):
        kind = message.metadata.message_type
        return Message(Error(1, "x"), reply_to=message) if kind == "train" else good(message)

    for cls in (FedAvg, PFedHN):
        outcome, _, grid = go(cls, answer=answer)
        assert outcome.client_updates == 0
        assert all(math.isnan(r.loss) for r in outcome.rounds)
        assert not any(r.applied for r in outcome.rounds)
        first, last = sent(grid, "train")[0], sent(grid, "train")[-4]
        np.testing.assert_array_equal(weights_of(first), weights_of(last))


def test_who_fails_in_the_evaluation_has_no_result_and_is_named(go):
    def answer(message, good):
        kind, node = message.metadata.message_type, message.metadata.dst_node_id
        if kind != "evaluate" or node not in {1, 2, 8}:
            return good(message)
        reply = good(message)
        if node == 1:
            return None
        reply.content["metrics"]["confusion"] = [float("nan")] * 9 if node == 2 else [1, 2]
        return reply

    outcome, _, _ = go(answer=answer)
    assert sorted(outcome.confusion) == ["Cy", "Di"]
    assert sorted(outcome.unseen) == ["Zoe"]
    assert outcome.failures["Ann"] == ["evaluation after round 2: no reply"]
    assert "counts" in outcome.failures["Bo"][0]
    assert "counts" in outcome.failures["Yu"][0]


def test_examples_of_nobody_weigh_nothing(go, trained):
    def answer(message, good):
        kind, node = message.metadata.message_type, message.metadata.dst_node_id
        if kind == "train":
            size = weights_of(message).size
            return trained(message, np.full(size, node), examples=0 if node != 4 else 3)
        return good(message)

    _, kept, grid = go(answer=answer, rounds=1)
    first = weights_of(sent(grid, "train")[0])
    np.testing.assert_allclose(kept.checkpoints[0].arrays["weights"].numpy(), first + 4, atol=1e-5)

    def nobody(message, good):
        kind = message.metadata.message_type
        return trained(message, examples=0) if kind == "train" else good(message)

    outcome, _, _ = go(answer=nobody)
    assert outcome.client_updates == 8


def test_where_nobody_trains_the_download_of_every_evaluated_person_counts(go):
    outcome, _, grid = go(SourceModel, rounds=0)
    size = len(sent(grid, "evaluate")[0].content["arrays"]["weights"].data)
    assert outcome.bytes_down >= 6 * size
    assert outcome.bytes_up == 0
    assert [(r.round, r.macro_f1) for r in outcome.rounds] == [(0, 1.0)]


class Asking(SourceModel):
    """Asks each device once, before it is judged, as functional memory does for conditions."""

    def __init__(self, *given):
        super().__init__(*given)
        self.known = set()

    def configure_evaluate(self, server_round, arrays, config, grid):
        self.join([node for node in grid.get_node_ids() if node not in self.known], grid)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def join(self, nodes, grid):
        plan = FedAvg(self.federation, FedAvg.Parameters()).train_config()
        arrays = self.initial()
        asked = [request(node, "train", arrays, plan, 0) for node in nodes]
        self.known |= {reply.metadata.src_node_id for reply in grid.send_and_receive(asked)}


def test_where_nobody_trains_what_a_strategy_asks_for_an_evaluation_counts_too(go, trained):
    replies = []

    def answer(message, good):
        if message.metadata.message_type != "train":
            return good(message)
        if message.metadata.dst_node_id == 4:
            return Message(Error(1, "asleep"), reply_to=message)
        replies.append(trained(message, np.ones(weights_of(message).size)))
        return replies[-1]

    outcome, _, grid = go(Asking, answer=answer, rounds=0)
    assert (outcome.client_updates, len(replies)) == (0, 5)
    asked = sent(grid, "train") + sent(grid, "evaluate")
    assert outcome.bytes_down == sum(payload(one.content) for one in asked)
    assert outcome.bytes_up == sum(payload(one.content) for one in replies) > 0


def test_the_curve_has_a_point_every_so_often_and_at_the_end(go):
    outcome, _, _ = go(rounds=5, evaluate_every=2)
    assert [r.macro_f1 for r in outcome.rounds] == [None, 1.0, None, 1.0, 1.0]


def test_cohorts_are_the_same_for_a_seed_and_others_for_another(go):
    def cohorts(seed):
        _, _, grid = go(FedAvg, rounds=6, cohort=2, seed=seed)
        return [m.metadata.dst_node_id for m in sent(grid, "train")]

    assert cohorts(1) == cohorts(1)
    assert cohorts(1) != cohorts(2)


class Yogi(flower.FedYogi, FedAvg):
    """As one writes it: our constructor, and what Flower's would have set."""

    def __init__(self, federation, parameters):
        FedAvg.__init__(self, federation, parameters)
        self.eta, self.tau, self.beta_1, self.beta_2 = 0.01, 1e-3, 0.9, 0.99
        self.current_arrays = self.m_t = self.v_t = None


class Momentum(flower.FedAvgM, FedAvg):
    """The same."""

    def __init__(self, federation, parameters):
        FedAvg.__init__(self, federation, parameters)
        self.server_learning_rate, self.server_momentum, self.server_opt = 0.7, 0.9, True
        self.current_arrays = self.momentum_vector = None


@pytest.mark.parametrize("cls", [FedAvg, PFedHN, Yogi, Momentum])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_from_any_checkpoint_a_run_comes_to_the_same(go, tmp_path, cls, at):
    whole, kept, grid = go(cls, rounds=3, cohort=2)
    path = tmp_path / "c"
    path.write_bytes(kept.checkpoints[at - 1].to_bytes())
    resumed, _, rest = go(cls, rounds=3, cohort=2, resume=Checkpoint.read(path, "id"))
    left = sent(grid, "train")[2 * at :]
    assert [m.metadata.dst_node_id for m in sent(rest, "train")] == [
        m.metadata.dst_node_id for m in left
    ]
    for a, b in zip(left, sent(rest, "train"), strict=True):
        np.testing.assert_array_equal(weights_of(a), weights_of(b))
    for a, b in zip(sent(grid, "evaluate")[-6:], sent(rest, "evaluate")[-6:], strict=True):
        np.testing.assert_array_equal(weights_of(a), weights_of(b))
    assert resumed.client_updates == whole.client_updates
    assert resumed.bytes_up == whole.bytes_up
    assert [r.round for r in resumed.rounds] == [1, 2, 3]


def test_no_server_optimizer_takes_a_variance_to_zero(go, trained):
    """The devices' own stay above a sixteenth of before; momentum goes on for many of them."""

    def answer(message, good):
        if message.metadata.message_type != "train":
            return good(message)
        return trained(message, -0.3 * weights_of(message), encoding="float32")

    _, kept, grid = go(Momentum, answer=answer, rounds=6, encoding="float32")
    vectors = [one.arrays["weights"].numpy() for one in kept.checkpoints]
    plan = Plan.model_validate_json(sent(grid, "train")[0].content["config"]["plan"])
    inside = np.concatenate([np.arange(*part) for part in plan.variances])
    assert all((vector[inside] > 0).all() for vector in vectors)
    for before, after in itertools.pairwise(vectors):
        assert (after[inside] >= before[inside] / 16).all()
    outside = np.delete(np.arange(plan.length), inside)
    assert (vectors[-1][outside] * vectors[0][outside] < 0).any()  # these may


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"n": 3, "h": {"a": [1, 2]}}, r"state\(\)\['h'\] is a dict; expected a numeric array"),
        ({"names": ["Ann", "Bo"]}, r"state\(\)\['names'\] is a list; expected a numeric array"),
        ({"rows": [[1], [1, 2]]}, r"state\(\)\['rows'\] is a list; expected a numeric array"),
        (None, r"state\(\) is a NoneType; expected a dict of numeric arrays by name"),
    ],
)
def test_a_state_that_no_file_holds_is_the_strategy_s_fault(go, state, said):
    class Odd(FedAvg):
        def state(self):
            return state

    with pytest.raises(RoundsError, match=f"^strategy 'it': {said}"):
        go(Odd)


def test_a_state_may_hold_plain_numbers(go, tmp_path):
    class Plain(FedAvg):
        def state(self):
            return {"n": 3, "share": [0.5, 1]}

    _, kept, _ = go(Plain)
    (tmp_path / "c").write_bytes(kept.checkpoints[0].to_bytes())
    read = Checkpoint.read(tmp_path / "c", "id").state
    assert {name: array.tolist() for name, array in read.items()} == {"n": 3, "share": [0.5, 1]}


def test_a_checkpoint_that_does_not_fit_says_so(go):
    _, kept, _ = go(PFedHN)
    checkpoint = kept.checkpoints[0]
    checkpoint.state["buffers"] = np.zeros(3, np.float32)
    del checkpoint.state["generator/centre"]
    with pytest.raises(CheckpointError, match="does not fit this run") as caught:
        go(PFedHN, resume=checkpoint)
    assert "\n" not in str(caught.value)


def test_an_outcome_survives_json():
    import json

    outcome, counts = Outcome("it", client_updates=3, wall_seconds=1.5), np.arange(4).reshape(2, 2)
    outcome.confusion["Ann"] = outcome.unseen["Zoe"] = counts
    outcome.failures["Bo"] = ["round 1: x"]
    from server.outcome import RoundRecord

    outcome.rounds = [
        RoundRecord(1, 2, float("nan"), 0, 5, 6, 0.5),
        RoundRecord(2, 2, 0.25, 0, 5, 6, 1),
    ]
    back = outcome_of("it", json.loads(json.dumps(progress_of(outcome), allow_nan=False)))
    assert math.isnan(back.rounds[0].loss)
    assert back.rounds[1] == outcome.rounds[1]
    np.testing.assert_array_equal(back.confusion["Ann"], counts)
    assert back.confusion["Ann"].dtype == np.int64
    assert (back.failures, back.client_updates, back.wall_seconds) == (outcome.failures, 3, 1.5)
