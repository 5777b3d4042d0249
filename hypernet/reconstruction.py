"""Training of the shared autoencoder on the sources, at the server, before the first round."""

import torch

from hypernet.networks.autoencoder import Autoencoder
from hypernet.networks.classifier import Classifier
from hypernet.networks.norm import set_groups
from hypernet.sources import Sources
from hypernet.virtual_users import Turning, VirtualUsers
from schemas.simulation import Model, Source


def train_autoencoder(
    sources: Sources,
    model: Model,
    config: Source,
    seed: int,
    steps: int,
    encoder: Classifier | None = None,
) -> Autoencoder:
    """Train an autoencoder by reconstruction on virtual users.

    Parameters
    ----------
    encoder : Classifier, optional
        Take this network's encoder as it is, and train the decoder only.

    Returns
    -------
    The network, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    network = new_autoencoder(sources, model, seed)
    learned = list(network.parameters())
    network.train()
    if encoder is not None:
        network.encoder.load_state_dict(encoder.encoder.state_dict())
        network.encoder.eval()
        learned = list(network.decoder.parameters())
    users = VirtualUsers(sources, Turning.of(config), generator)
    optimizer = torch.optim.Adam(learned, 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    set_groups(network, config.persons_per_step)
    for _ in range(steps):
        x, _, _ = users.draw(config.persons_per_step, config.windows_per_person)
        with torch.set_grad_enabled(encoder is None):
            z = network.encoder(x)
        loss = (network.decoder(z) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    set_groups(network, 1)
    return network.eval()


def new_autoencoder(sources: Sources, model: Model, seed: int) -> Autoencoder:
    """An untrained autoencoder; one seed gives one initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Autoencoder(sources.spec, model.width, model.latent)
