"""Rounds of devices that learn, against each baseline's published rule in plain torch."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from flwr.app import Message
from torch.nn.functional import batch_norm, cross_entropy

from client.app import _records, payload_of
from client.device import Device
from client.graphs import GraphStore
from client.learner import Learner
from client.windows import PersonWindows
from hypernet.networks.norm import BatchNorm
from hypernet.parameters import load_vector, vector_of
from server.graphs import GraphBook
from server.strategies.averaging import FedAvg, FedProx
from server.strategies.partial import Ditto, FedBN, FedPer, FedRep
from tests.server.conftest import CLASSES, CLIENTS

ROUNDS, RATE, SIZE, PASSES, PULL = 3, 0.005, 6, 3, 2.0
NEAR = 2e-4  # where a unit is near 0, one float32 turns it on and another does not


class TorchNorm(BatchNorm):
    """By torch's own function; running statistics as ours has them."""

    def forward(self, x):
        axes = (0, 2) if x.ndim == 3 else (0,)
        with torch.no_grad():
            self.mean = torch.lerp(self.mean, x.mean(axes), self.momentum)
            self.var = torch.lerp(self.var, x.var(axes, correction=0), self.momentum)
        return batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


@pytest.fixture(scope="module")
def book():
    return GraphBook()


@pytest.fixture
def people():
    """Persons with unequally many labels."""

    def person(node):
        rng = np.random.default_rng(node)
        y = np.arange(16) % CLASSES
        x = rng.normal(size=(16, 20, 6)) * rng.uniform(0.5, 2, 6) + y[:, None, None]
        labels = np.where(np.arange(16) < 3 * node, y, -1)
        return PersonWindows(x.astype(np.float32), labels, x[:0].astype(np.float32), y[:0])

    return {node: person(node) for node in CLIENTS}


def learned(network, start, person, rng, part="", anchor=None, passes=PASSES):
    """SGD with momentum on what ``part`` names; the proximal term is part of the loss."""
    network = copy.deepcopy(network)
    load_vector(network, torch.from_numpy(start))
    for norm in network.modules():
        if isinstance(norm, BatchNorm):
            norm.__class__ = TorchNorm
    wanted = [p for name, p in network.named_parameters() if name.startswith(part)]
    if anchor is not None:
        still = copy.deepcopy(network)
        load_vector(still, torch.from_numpy(anchor))
    optimizer = torch.optim.SGD(wanted, RATE, momentum=0.9)
    x = torch.from_numpy(person.train)
    told = network.spec.statistics(x)
    for _ in range(passes):
        order = rng.permutation(np.flatnonzero(person.labels >= 0))
        edges = [*range(0, len(order), SIZE), len(order)]
        if len(order) % SIZE == 1:
            edges.pop(-2)  # one window over joins the batch before
        for first, stop in pairwise(edges):
            rows = np.sort(order[first:stop])
            loss = cross_entropy(network(x[rows], *told), torch.from_numpy(person.labels[rows]))
            if anchor is not None:
                pairs = zip(network.parameters(), still.parameters(), strict=True)
                loss = loss + PULL / 2 * sum((a - b.detach()).square().sum() for a, b in pairs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return vector_of(network).numpy()


def published(kind, network, people, seed):
    """The shared weights and what devices keep, after all rounds."""
    parts = {FedPer: "head", FedRep: "head", FedBN: "norm"}
    tensors = [*network.named_parameters(), *network.named_buffers()]
    inside = [np.full(t.numel(), parts.get(kind, "none") in name) for name, t in tensors]
    stays = np.concatenate(inside)
    shared, kept = vector_of(network).numpy(), {}
    for number in range(1, ROUNDS + 1):
        models, counts = [], []
        for node, person in people.items():
            rng = np.random.default_rng([seed, number * 1_000_003 + node])
            start = shared
            if stays.any() and node in kept:
                start = np.where(stays, kept[node], shared)
            pulled = shared if kind is FedProx else None
            if kind is FedRep:
                start = learned(network, start, person, rng, "head")
                model = learned(network, start, person, rng, "encoder", passes=1)
            else:
                model = learned(network, start, person, rng, anchor=pulled)
            if stays.any():
                kept[node] = model
            if kind is Ditto:
                kept[node] = learned(network, kept.get(node, shared), person, rng, anchor=shared)
            models.append(np.where(stays, shared, model))
            counts.append((person.labels >= 0).sum())
        shared = np.average(np.stack(models), 0, counts).astype(np.float32)
    return shared, kept, stays if stays.any() else np.ones_like(stays)


@pytest.mark.parametrize("kind", [FedAvg, FedProx, FedBN, FedPer, FedRep, Ditto])
def test_rounds_of_devices_come_to_what_the_paper_says(
    federation, training, admitted, book, people, tmp_path, kind
):
    made = replace(federation(encoding="float32"), graphs=book)
    known = {"mu": PULL, "pull": PULL, "representation_steps": 0}
    parameters = kind.Parameters(
        steps=0,
        epochs=PASSES,
        batch_size=SIZE,
        learning_rate=RATE,
        optimizer="sgd",
        **{key: value for key, value in known.items() if key in kind.Parameters.model_fields},
    )
    strategy, store = kind(made, parameters), GraphStore(tmp_path)
    devices = {n: Device(store, lambda p=p: Learner(p, store), n) for n, p in people.items()}
    arrays = strategy.initial()
    for number in range(1, ROUNDS + 1):
        requests = training(strategy, arrays, number)
        for graph in book.graphs.values():
            store.put(graph)
        replies = [
            Message(
                _records(devices[r.metadata.dst_node_id].answer("train", payload_of(r.content))),
                reply_to=r,
            )
            for r in requests
        ]
        arrays, _ = strategy.aggregate_train(number, admitted(requests, replies))

    network = made.source_model()
    shared, kept, stays = published(kind, network, people, made.config.seed)
    start = vector_of(network).numpy()
    np.testing.assert_allclose(arrays["weights"].numpy(), shared, atol=NEAR)
    assert np.abs(shared - start).max() > 0.01
    for node, own in kept.items():
        mine = devices[node].kept["own" if kind is Ditto else "personal"]
        np.testing.assert_allclose(mine[stays], own[stays], atol=NEAR)
