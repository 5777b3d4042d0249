"""Episodes over what frozen layers see: logits and conditions are those of the inputs."""

import pytest
import torch

from hypernet.condition import CONDITIONERS
from hypernet.episodes import Course, Episodes, train_memory
from hypernet.frozen_episodes import FrozenEpisodes, blocks_of
from hypernet.generators.functional_memory import FunctionalMemory
from hypernet.networks import Classifier
from hypernet.networks.adapted import AdaptedClassifier
from hypernet.parameters import ParameterSpec, vector_of
from hypernet.virtual_users import STILL, VirtualUsers

WIDTHS, CLASSES, VERSIONS = [4, 8, 8, 6], 3, 2


@pytest.fixture
def network(sources):
    torch.manual_seed(0)
    conditioner = CONDITIONERS["prototypes"](WIDTHS, CLASSES, 0.0)
    backbone = Classifier(sources.spec, CLASSES, 4, 6).eval()
    return AdaptedClassifier(backbone, "lora", 2, 1.0, conditioner, layers="last").eval()


@pytest.fixture
def episodes(network, sources):
    users = VirtualUsers(sources, STILL, torch.Generator().manual_seed(1))
    return FrozenEpisodes(network, users, VERSIONS)


def adapters(network, count):
    spec = ParameterSpec.of(network)
    return torch.randn(count, spec.trainable_length, generator=torch.Generator().manual_seed(4))


def test_conditions_and_logits_are_those_of_the_inputs(network, episodes, sources):
    inputs = [episodes.users.whole(person, 30)[0] for person in (0, 2)]
    rows = torch.cat([torch.arange(30), 30 * 2 * VERSIONS + torch.arange(30)])
    plain = Episodes(network, episodes.users)
    wanted = plain.condition(torch.cat(inputs), 2, None)
    torch.testing.assert_close(episodes.condition(rows, 2, None), wanted, rtol=1e-4, atol=1e-4)
    made = adapters(network, 2)
    # AdaBN of the layers before was fitted on all of a person's windows: so are these.
    full = plain.logits(torch.cat(inputs), made)
    torch.testing.assert_close(episodes.logits(rows, made), full, rtol=1e-3, atol=1e-3)


def test_the_loss_is_of_other_blocks_of_time_than_the_condition(episodes):
    for _ in range(5):
        seen, judged, y, who = episodes.draw(3, 9, 7)
        assert 3 <= len(seen) // 3 <= 9
        assert len(judged) == len(y) == 21
        for place in range(3):
            mine = seen.reshape(3, -1)[place]
            theirs = judged.reshape(3, -1)[place]
            blocks = set(episodes.block[mine].tolist()), set(episodes.block[theirs].tolist())
            assert not blocks[0] & blocks[1]
            person = int(who[place])
            first = 30 * VERSIONS * person
            both = torch.cat([mine, theirs])
            assert first <= int(both.min())
            assert int(both.max()) < first + 30 * VERSIONS
        assert torch.equal(episodes.y[judged], y)


def test_blocks_are_of_time_within_each_class():
    y = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    assert blocks_of(y, 4).tolist() == [0, 1, 2, 3, 0, 2, 0]


def test_a_source_of_one_window_serves_both_sides(network, sources):
    from dataclasses import replace

    few = replace(sources, x=[x[:1] for x in sources.x], y=[y[:1] for y in sources.y])
    users = VirtualUsers(few, STILL, torch.Generator().manual_seed(1))
    seen, judged, y, _ = FrozenEpisodes(network, users, 1).draw(5, 4, 3)
    assert len(judged) == len(y) == 15
    assert len(seen) % 5 == 0


def test_a_memory_learns_in_them(network, episodes):
    conditioner = network.conditioner
    spec = ParameterSpec.of(network)
    torch.manual_seed(0)
    memory = FunctionalMemory(
        vector_of(network)[: spec.trainable_length],
        spec,
        conditioner.tokens,
        conditioner.channels,
        width=16,
        blocks=1,
        patch=16,
        scale=0.3,
    )
    losses = []
    course = Course(steps=80, persons=3, seen=20, judged=10, rate=2e-2, collapse=0.01)
    train_memory(memory, episodes, conditioner, course, lambda _, loss: losses.append(loss))
    assert sum(losses[-10:]) < 0.96 * sum(losses[:10])
    seen, _, _, _ = episodes.draw(3, 20, 1)
    one, two, _ = memory.generate(episodes.condition(seen, 3, None))
    assert not torch.allclose(one, two, atol=1e-4)
