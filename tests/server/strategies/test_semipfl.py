"""SemiPFL's two variants: what is generated, pulled back, reported, and sent to be evaluated."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from hypernet.networks.autoencoder import Autoencoder
from hypernet.parameters import ParameterSpec, load_vector, vector_of
from server.border import weights_of
from server.checkpoint import Checkpoint
from server.strategies.semipfl import SemiPFL
from server.view import GridView


def make(federation, **parameters):
    small = {"embedding": 3, "hidden": 8, "chunk": 64, "reconstruction_steps": 2}
    small |= {"server_steps": 2, "embedding_rate": 0.5, "base_windows": 4}
    return SemiPFL(federation(cohort=3), SemiPFL.Parameters(**(small | parameters)))


@pytest.fixture
def one_round(training, trained, admitted):
    def go(strategy, number=1, errors=None, scale=0.05):
        requests = training(strategy, number=number)
        rng = np.random.default_rng(number)
        replies = []
        for request in requests:
            delta = rng.standard_normal(weights_of(request).size).astype(np.float32) * scale
            reply = trained(request, delta)
            if errors is not None:
                reply.content["report"] = ArrayRecord({"errors": Array(errors)})
            replies.append(reply)
        strategy.aggregate_train(number, admitted(requests, replies))
        return requests

    return go


def evaluations(strategy, devices, nodes=(1, 2)):
    grid = GridView(devices([*nodes], None), nodes)
    return list(
        strategy.configure_evaluate(1, strategy.initial(), strategy.evaluate_config(), grid)
    )


def test_before_the_first_round_everyone_gets_the_sources_autoencoder(federation, training):
    strategy = make(federation)
    start = vector_of(strategy.network).numpy()
    encoder = strategy.federation.source_model().encoder
    assert torch.equal(strategy.network.encoder.conv1.weight, encoder.conv1.weight)
    for request in training(strategy):
        np.testing.assert_allclose(weights_of(request), start, atol=1e-7)


def test_rounds_make_persons_differ_and_leave_the_centre(federation, training, one_round):
    strategy = make(federation)
    centre = strategy.generator.get_parameter("centre").clone()
    for number in range(1, 4):
        one_round(strategy, number)
    assert torch.equal(strategy.generator.get_parameter("centre"), centre)
    vectors = [weights_of(request) for request in training(strategy, number=4)]
    assert not np.allclose(vectors[0], vectors[1], atol=1e-7)


def test_without_residual_nothing_moves(federation, training, one_round):
    strategy = make(federation, residual=False)
    before = strategy.vectors([1, 2])
    one_round(strategy)
    assert torch.equal(strategy.vectors([1, 2]), before)


def test_the_figure_learns_its_centre_from_the_devices_alone(federation, one_round):
    strategy = make(federation, variant="figure")
    assert strategy.labels is None
    centre = strategy.generator.get_parameter("centre").clone()
    one_round(strategy, errors=np.ones(5, np.float32))
    assert not torch.equal(strategy.generator.get_parameter("centre"), centre)


def test_only_the_figure_asks_for_errors(federation, training, plan_of):
    for variant, asked in (("joint", set()), ("figure", {"errors"})):
        strategy = make(federation, variant=variant)
        plan = plan_of(strategy.train_config())
        assert set(plan.report) == asked
        assert [stage.part for stage in plan.stages if stage.kind == "train"] == ["unlabelled"]


@pytest.mark.parametrize("variant", ["joint", "figure"])
def test_statistics_that_the_server_does_not_read_stay_on_devices(federation, plan_of, variant):
    strategy = make(federation, variant=variant)
    size, length = strategy.spec.trainable_length, strategy.spec.length
    assert 0 < size < length
    assert plan_of(strategy.train_config()).unsent == ((size, length),)
    alone = make(federation, variant=variant, residual=False)
    assert plan_of(alone.train_config()).unsent == ((0, length),), "nothing is pulled back"


def test_the_threshold_is_a_quantile_of_the_users_own_errors(federation):
    strategy = make(federation, variant="figure", quantile=0.5)
    spec = ParameterSpec.of(strategy.personaliser.network)
    (place,) = spec.ranges(lambda name: name == "combination")
    autoencoder = Autoencoder(strategy.federation.spec, 4, 4).eval()
    load_vector(autoencoder, vector_of(strategy.network))

    def weights(errors):
        vector = strategy.personaliser.vector(autoencoder, torch.tensor(errors))
        return vector[place[0] : place[1]].exp()

    assert torch.allclose(weights([1e-6, 1e-6, 9.0]), torch.full((2,), 1e-3), atol=1e-4)
    assert torch.allclose(weights([1e6, 1e6, 0.0]), torch.full((2,), 1.001), atol=1e-4)


@pytest.mark.parametrize("variant", ["joint", "figure"])
def test_a_personal_model_holds_the_persons_own_encoder(federation, devices, one_round, variant):
    strategy = make(federation, variant=variant)
    errors = np.ones(5, np.float32) if variant == "figure" else None
    for number in (1, 2):
        one_round(strategy, number, errors)
    spec = ParameterSpec.of(strategy.personaliser.network)
    for request, vector in zip(
        evaluations(strategy, devices), strategy.vectors([1, 2]), strict=True
    ):
        sent = spec.unflatten(torch.from_numpy(weights_of(request).copy()))
        mine = strategy.spec.unflatten(vector)
        assert torch.equal(sent["encoder.conv2.weight"], mine["encoder.conv2.weight"])


def test_joint_sends_base_models_of_every_source(federation, devices):
    strategy = make(federation)
    spec = ParameterSpec.of(strategy.personaliser.network)
    sent = spec.unflatten(torch.from_numpy(weights_of(evaluations(strategy, devices)[0]).copy()))
    assert sent["base"].shape[0] == len(strategy.federation.sources)
    assert sent["base"].abs().sum() > 0
    head = strategy.federation.source_model().head
    assert torch.equal(sent["head.weight"], head.weight)


@pytest.mark.parametrize("distil", [True, False])
def test_many_labels_are_tuned_on_few_are_not(federation, plan_of, distil):
    strategy = make(federation, many=50, distil=distil)
    tuning = plan_of(strategy.evaluate_config()).stages[-1]
    assert (tuning.suits(50), tuning.suits(51)) == (False, True)
    assert (tuning.part, tuning.targets is not None) == (
        ("all", True) if distil else ("labelled", False)
    )


def test_a_checkpoint_goes_on_as_if_never_stopped(federation, training, one_round, tmp_path):
    straight, stopped = make(federation), make(federation)
    for number in (1, 2):
        one_round(straight, number)
        one_round(stopped, number)
    path = tmp_path / "c.safetensors"
    path.write_bytes(Checkpoint("me", 2, stopped.initial(), stopped.state()).to_bytes())
    resumed = make(federation)
    resumed.load(Checkpoint.read(path, "me").state)
    for strategy in (straight, resumed):
        one_round(strategy, 3)
    assert torch.equal(straight.vectors([1, 2, 3, 4]), resumed.vectors([1, 2, 3, 4]))


def test_an_unseen_person_joins_without_moving_the_generator(
    federation, devices, one_round, trained
):
    strategy = make(federation, join_rounds=2)
    for number in (1, 2, 3):
        one_round(strategy, number)
    before = [p.clone() for p in strategy.generator.parameters()]
    others = strategy.condition([1, 2]).clone()
    fresh = strategy.condition([9]).clone()

    def answer(message):
        rng = np.random.default_rng(0)
        size = weights_of(message).size
        return trained(message, rng.standard_normal(size).astype(np.float32))

    strategy.join([9], devices([9], answer))
    assert all(
        torch.equal(a, b) for a, b in zip(before, strategy.generator.parameters(), strict=True)
    )
    assert torch.equal(strategy.condition([1, 2]), others)
    assert not torch.equal(strategy.condition([9]), fresh)
