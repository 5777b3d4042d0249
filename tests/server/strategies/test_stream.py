"""Devices that live through days: who is asked when, what is answered, what is left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from client.adapters import KeptAdapters
from schemas.base import ConfigError
from schemas.distance import distance
from server.border import weights_of
from server.outcome import Outcome
from server.rounds import Rounds, Watch, outcome_of, progress_of
from server.strategies.functional_memory import FunctionalMemoryStrategy

PERSONS = {1: "ann day 3", 2: "ann day 4", 3: "bob day 3", 4: "bob day 4"}
UNSEEN = {8: "ann day 5", 9: "bob day 5"}
NAMES = PERSONS | UNSEEN
LIVES = {node: (name[:3], int(name[-1])) for node, name in NAMES.items()}


@pytest.fixture
def make(federation):
    def strategy(**parameters):
        small = {"width": 8, "blocks": 1, "patch": 16, "rank": 2, "memory_steps": 0}
        asked = FunctionalMemoryStrategy.Parameters(**(small | parameters))
        lived = replace(federation(rounds=0), lives=LIVES, owners=("ann", "ann"))
        other = torch.randn(12, 20, 6, generator=torch.Generator().manual_seed(1))
        sources = replace(lived.sources, x=[lived.sources.x[0], other])
        return FunctionalMemoryStrategy(replace(lived, sources=sources), asked)

    return strategy


def said(message, choice, told=None, **more):
    content = RecordDict({"drift": ConfigRecord({"choice": choice, **more})})
    if told is not None:
        content["report"] = ArrayRecord({"condition": Array(told)})
    return Message(content, reply_to=message)


def told(strategy, node):
    shape = strategy.generator.tokens, strategy.generator.channels
    return np.random.default_rng(node).standard_normal(shape).astype(np.float32)


def drift_of(message, plan_of):
    return plan_of(message.content.config_records["config"]).drift


@pytest.fixture
def go(make, devices, counted):
    """Run a strategy's evaluations; ``answer`` says what a device says of drift."""

    def run(answer, **parameters):
        strategy = make(**parameters)

        def reply(message):
            if message.metadata.message_type == "query.drift":
                return answer(strategy, message)
            if message.metadata.message_type == "evaluate":
                return counted(message)
            return Message(Error(1, "no query"), reply_to=message)

        grid = devices(NAMES, reply)
        watch = Watch(print, lambda _: None, lambda c: float(np.trace(c) / c.sum()), print)
        loop = Rounds("it", strategy, grid, PERSONS, UNSEEN, 0, watch, "id")
        return loop.run(), grid, strategy

    return run


def asks(strategy, message):
    return said(message, "ask", told(strategy, message.metadata.dst_node_id))


def sent(grid, kind):
    return [m for m in grid.sent if m.metadata.message_type == kind]


def test_days_come_in_order_and_a_life_begins_once(go, plan_of):
    _, grid, _ = go(asks)
    kinds = [(m.metadata.message_type[:5], m.metadata.dst_node_id) for m in grid.sent]
    kinds = [one for one in kinds if one[0] in ("query", "evalu")]
    there = [node for kind, node in kinds if kind == "evalu"]
    assert there == [1, 3, 2, 4, 8, 9]
    begun = {m.metadata.dst_node_id: drift_of(m, plan_of) for m in sent(grid, "query.drift")}
    assert [node for node, drift in begun.items() if drift.begin] == [1, 3]
    for node in there:
        assert kinds.index(("query", node)) < kinds.index(("evalu", node))


def test_an_adapter_is_made_for_those_who_ask_alone(go, plan_of):
    def answer(strategy, message):
        node = message.metadata.dst_node_id
        return asks(strategy, message) if node in (1, 3) else said(message, "keep", distance=0.1)

    outcome, grid, strategy = go(answer)
    assert set(strategy.embeddings) == {1, 3}
    sizes = {m.metadata.dst_node_id: weights_of(m).size for m in sent(grid, "evaluate")}
    full = strategy.spec.length
    assert sizes == {1: full, 3: full, 2: 0, 4: 0, 8: 0, 9: 0}
    assert all(drift_of(m, plan_of) for m in sent(grid, "evaluate"))
    choices = {name: one.choice for name, one in outcome.exchanges.items()}
    assert choices == {name: "ask" if "day 3" in name else "keep" for name in NAMES.values()}
    asked, kept = outcome.exchanges["ann day 3"], outcome.exchanges["ann day 5"]
    assert asked.bytes_up - kept.bytes_up > 4 * told(strategy, 1).size
    assert asked.bytes_down - kept.bytes_down > 3 * full
    assert kept.distance == 0.1
    assert outcome.bytes_down == sum(one.bytes_down for one in outcome.exchanges.values())
    assert not outcome.failures


def test_they_get_what_devices_that_are_asked_each_day_got(go, make, devices):
    _, grid, strategy = go(asks)
    plain = make()
    plain.embeddings = dict(strategy.embeddings)
    for message in sent(grid, "evaluate"):
        mine = plain.vectors([message.metadata.dst_node_id])[0].numpy()
        np.testing.assert_allclose(weights_of(message), mine, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda _, m: None, "no reply"),
        (lambda _, m: Message(Error(1, "no windows"), reply_to=m), "no windows"),
        (lambda _, m: Message(RecordDict(), reply_to=m), "refused: KeyError"),
        (lambda _, m: said(m, "perhaps"), "choice 'perhaps'"),
        (lambda _, m: said(m, "ask"), "refused: KeyError"),
        (lambda s, m: said(m, "ask", told(s, 1)[:, 1:]), "numbers; expected"),
        (lambda s, m: said(m, "ask", np.full_like(told(s, 1), np.nan)), "NaN or infinity"),
        (lambda _, m: said(m, "keep", distance="far"), "could not convert"),
        (lambda _, m: said(m, "keep", distance=np.inf), "at distance inf"),
    ],
)
def test_who_says_nothing_sensible_gets_the_mean_adapter_and_is_named(go, plan_of, wrong, reason):
    def answer(strategy, message):
        odd = message.metadata.dst_node_id == 2
        return wrong(strategy, message) if odd else asks(strategy, message)

    outcome, grid, strategy = go(answer)
    (line,) = outcome.failures["ann day 4"]
    assert reason in line
    assert outcome.exchanges["ann day 4"].choice == "failed"
    assert set(outcome.confusion) == set(PERSONS.values())
    (message,) = [m for m in sent(grid, "evaluate") if m.metadata.dst_node_id == 2]
    assert drift_of(message, plan_of) is None, "it may have no adapter to go on with"
    mean = strategy.generator.generate(strategy.generator.center[None])[0].detach().numpy()
    np.testing.assert_allclose(weights_of(message)[: mean.size], mean, atol=1e-6)


def test_the_policy_is_a_threshold(make):
    assert make(regenerate="always").stream.drift.threshold == 0
    assert make(regenerate="never").stream.drift.threshold is None
    low, high = (make(regenerate="noticed", drift_quantile=q).stream.drift for q in (0.1, 1))
    assert 0 < low.threshold <= high.threshold
    assert high.backbone == make().network.version
    assert make(kept_adapters=3).stream.drift.most == 3


def test_the_threshold_is_of_one_persons_days(make):
    strategy = make(regenerate="noticed")
    network, xs = strategy.network, strategy.federation.sources.x
    with torch.no_grad():
        one, other = (network.condition(x, *network.spec.statistics(x)).numpy() for x in xs)
    assert strategy.stream.drift.threshold == pytest.approx(distance(one, other))
    lonely = replace(strategy.federation, owners=("ann", "bob"))
    with pytest.raises(ConfigError, match="needs two days or more of a source person"):
        FunctionalMemoryStrategy(lonely, strategy.settings)


def test_the_order_of_windows_changes_no_choice(make):
    network = make().network
    x = torch.randn(30, 20, 6, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        one, other = (
            network.condition(part, *network.spec.statistics(part)).numpy()
            for part in (x, x[order])
        )
    kept = KeptAdapters(None, network.version)
    kept.choose(one, 1e-3)
    kept.take(np.zeros(3, np.float32))
    assert kept.choose(other, 1e-3).choice == "keep"


def test_who_lives_through_no_days_is_asked_as_before(make, federation):
    parameters = make().settings
    assert FunctionalMemoryStrategy(federation(), parameters).stream is None
    for given in ("mean", "static", "random", "none"):
        assert make(given=given).stream is None


def test_what_was_said_outlives_an_interruption(go):
    outcome, _, _ = go(asks)
    again = outcome_of("it", progress_of(outcome))
    assert again.exchanges == outcome.exchanges
    assert outcome_of("it", {**progress_of(Outcome("it")), "exchanges": {}}).exchanges == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"track": 0.5, "prototypes": 3, "adapter": "lora"}, "take layers = 'head'"),
        ({"track": 1.0, "prototypes": 3}, "less than 1"),
    ],
)
def test_what_cannot_be_tracked_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FunctionalMemoryStrategy.Parameters(**wrong)


def test_class_means_are_carried_by_those_who_live_through_days(go, plan_of):
    _, grid, strategy = go(asks, prototypes=2, track=0.5)
    wanted = strategy.spec.ranges(lambda name: name.startswith("own_"))
    classes, latent = strategy.network.own_centres.shape
    assert sum(stop - start for start, stop in wanted) == classes * latent + 1
    plans = [plan_of(m.content.config_records["config"]) for m in sent(grid, "evaluate")]
    assert {plan.carried for plan in plans} == {wanted}
    assert plan_of(strategy.evaluate_config()).carried == ()


@pytest.mark.parametrize(("prototypes", "track"), [(2, 0.0), (0, 0.5)])
def test_without_tracking_or_class_means_nothing_is_carried(go, plan_of, prototypes, track):
    _, grid, _ = go(asks, prototypes=prototypes, track=track)
    plans = [plan_of(m.content.config_records["config"]) for m in sent(grid, "evaluate")]
    assert {plan.carried for plan in plans} == {()}
