"""What somebody meets who writes a strategy, or a server app, of one's own."""

import logging
import re

import numpy as np
import pytest
import torch
from flwr.app import Error, Message
from flwr.serverapp import strategy as flower

from hypernet.generators.base import WeightGenerator
from server.border import admit, weights_of
from server.strategies.averaging import FedAvg
from server.strategies.buffered import unbuffered
from server.strategies.installed import strategies
from server.strategies.pfedhn import PFedHN

NODES = (1, 2, 3, 4)


class FedMedian(flower.FedMedian, FedAvg):
    """Flower's median on our devices."""


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "personal", "semipfl", "local"])
def test_flower_s_own_loop_is_refused_and_the_right_one_is_named(federation, devices, name, brief):
    kind = strategies()[name]
    strategy = kind(federation(), brief(kind))
    with pytest.raises(TypeError, match=r"start: .*server\.rounds\.Rounds.*flwr run"):
        strategy.start(devices(NODES, lambda _: None), strategy.initial(), num_rounds=2)


def test_a_base_of_flower_s_stands_first():
    with pytest.raises(TypeError, match=r"class X\(flower\.FedMedian, FedAvg\)"):

        class X(FedAvg, flower.FedMedian):
            """Its median would be half used."""


def test_what_overrides_rounds_alone_cannot_run_one_by_one():
    """It would run as the base that it means to replace, and nobody would be told."""

    class Both(FedMedian):
        def aggregate_train(self, server_round, replies):
            return super().aggregate_train(server_round, replies)

        def absorb(self, version, arrays, returned):
            return super().absorb(version, arrays, returned)

    class Drawn(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            return super().configure_train(server_round, arrays, config, grid)

    median = unbuffered(FedMedian)
    assert re.search(r"FedMedian overrides aggregate_train.* absorb .* FedAvg's", median)
    assert re.search(r"Drawn overrides configure_train.* ask .* FedAvg's", unbuffered(Drawn))
    assert not unbuffered(Both)
    known = strategies()
    assert not [name for name in known if known[name].rounds != 0 and unbuffered(known[name])]


@pytest.mark.parametrize("cls", [FedAvg, FedMedian, PFedHN])
def test_a_reply_of_an_error_is_logged_and_left_out(
    federation, devices, trained, monkeypatch, caplog, cls
):
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.INFO, "flwr")
    came = []
    for bad in (False, True):
        strategy = cls(federation(), cls.Parameters())
        arrays, config = strategy.initial(), strategy.train_config()
        asked = list(strategy.configure_train(1, arrays, config, devices(NODES, lambda _: None)))
        requests = [one for one in asked if one.metadata.dst_node_id != 4]
        replies = [trained(one, np.full(weights_of(one).size, 0.1)) for one in requests]
        updates = admit(requests, replies, 1e9, 1.0).updates
        lost = [one for one in asked if one.metadata.dst_node_id == 4]
        updates += [Message(Error(1, "the sensor fell off"), reply_to=one) for one in lost * bad]
        made, _ = strategy.aggregate_train(1, updates)
        came.append((made or strategy.initial())["weights"].numpy())
    np.testing.assert_array_equal(*came)
    assert "the sensor fell off" in caplog.text


class LowRank(WeightGenerator):
    """θ = start + U v."""

    def __init__(self, start, embedding):
        super().__init__()
        self.register_buffer("start", start.clone())
        self.u = torch.nn.Parameter(0.1 * torch.randn(embedding, len(start)))

    def generate(self, conditions):
        return self.start + conditions @ self.u


class LowRankHN(PFedHN):
    """pFedHN with a generator of one's own."""

    def make_generator(self, start):
        return LowRank(start, self.settings.embedding)


def test_a_generator_of_one_s_own_is_one_method(federation, devices, trained):
    made = [LowRankHN(federation(), LowRankHN.Parameters()) for _ in range(2)]
    first = made[0]
    assert isinstance(first.generator, LowRank)
    torch.testing.assert_close(first.generator.u, made[1].generator.u)  # seeded
    before = first.generator.u.detach().clone()
    config = first.train_config()
    grid = devices(NODES, lambda _: None)
    requests = list(first.configure_train(1, first.initial(), config, grid))
    replies = [trained(one, np.full(weights_of(one).size, 0.01)) for one in requests]
    first.aggregate_train(1, admit(requests, replies, 1e9, 1.0).updates)
    assert not torch.equal(first.generator.u, before)  # the optimizer has its parameters
    assert set(first.optimizer.param_groups[0]["params"]) == set(first.generator.parameters())
    other = made[1]
    other.load(first.state())
    torch.testing.assert_close(other.generator.u, first.generator.u)
