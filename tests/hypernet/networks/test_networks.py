import pytest
import torch

from hypernet.networks import Autoencoder, Classifier, ConvEncoder, InputSpec, MlpAutoencoder
from hypernet.networks.classifier import dropout
from hypernet.networks.norm import norms


@pytest.mark.parametrize("time", [4, 5, 18, 20, 33])
@pytest.mark.parametrize("make", [Autoencoder, MlpAutoencoder])
def test_autoencoders_give_windows_of_any_length_back(make, time):
    spec = InputSpec(time, 3, ((0, 1, 2),))
    model = make(spec, latent=5).eval()
    x = torch.randn(6, time, 3)
    statistics = spec.statistics(x)
    assert model.encode(x, *statistics).shape == (6, 5)
    target = spec.normalise(x, *statistics)
    rebuilt = model.decoder(model.encoder(target))
    assert rebuilt.shape == target.shape
    errors = model.errors(x, *statistics)
    torch.testing.assert_close(errors[2], (rebuilt[2] - target[2]).square().mean())
    torch.testing.assert_close(model.reconstruction_loss(x, *statistics), errors.mean())
    torch.testing.assert_close(model(x, *statistics), errors)


def test_a_decoder_convolves_each_step_twice():
    """As its docstring says, in plain torch."""
    decoder = Autoencoder(InputSpec(22, 3, ((0, 1, 2),)), latent=5).decoder.double()
    z = torch.randn(4, 5, dtype=torch.float64)
    x = torch.relu(decoder.linear(z)).reshape(4, decoder.width, 6).repeat_interleave(2, 2)
    x = torch.relu(decoder.conv1(x)).repeat_interleave(2, 2)
    expected = decoder.conv2(x)[..., :22]
    torch.testing.assert_close(decoder(z), expected)


def test_a_windows_result_does_not_depend_on_its_batch(network, windows):
    model = network("classifier").eval()
    x = torch.from_numpy(windows(8))
    mean, deviation = model.spec.statistics(x)
    logits = model(x, mean, deviation)
    assert logits.shape == (8, 3)
    torch.testing.assert_close(model(x[5:6], mean, deviation), logits[5:6])


def test_classification_loss_is_torchs(network, windows):
    model = network("classifier").eval()
    x, y = torch.from_numpy(windows(8)), torch.arange(8) % 3
    mean, deviation = model.spec.statistics(x)
    expected = torch.nn.functional.cross_entropy(model(x, mean, deviation), y)
    torch.testing.assert_close(model.classification_loss(x, y, mean, deviation), expected)


def test_the_encoder_has_the_size_that_its_docstring_says():
    encoder = ConvEncoder(InputSpec(100, 6, ((0, 1, 2), (3, 4, 5))), 32, 64)
    assert 41_000 < sum(p.numel() for p in encoder.parameters()) < 43_000
    assert (encoder(torch.randn(3, 8, 100)) >= 0).all()


def test_an_autoencoder_learns(network, windows):
    model = network("autoencoder").train()
    x = torch.from_numpy(windows(12))
    statistics = model.spec.statistics(x)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = model.reconstruction_loss(x, *statistics)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_every_parameter_of_the_classifier_learns(spec):
    model = Classifier(spec, 3, 8, 8).train()
    x = torch.randn(30, spec.time, spec.channels)
    model.classification_loss(x, torch.arange(30) % 3, *spec.statistics(x)).backward()
    assert all(p.grad.any() for p in model.parameters())
    assert len(norms(model)) == 4


def test_dropout_keeps_the_mean_and_obeys_its_generator():
    z = torch.ones(200, 100)
    one, two, other = (dropout(z, 0.2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.mean().item() == pytest.approx(1, abs=0.02)
    assert (one == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert one.max().item() == pytest.approx(1.25)
