"""The sources' autoencoder, from which SemiPFL starts: trained, or as it was kept."""

import hashlib

from hypernet.networks.autoencoder import Autoencoder
from hypernet.networks.classifier import Classifier
from hypernet.parameters import vector_of
from hypernet.reconstruction import new_autoencoder, train_autoencoder
from server.federation import Federation
from server.kept import kept, kept_at


def trained_autoencoder(
    federation: Federation, steps: int, encoder: Classifier | None = None
) -> Autoencoder:
    """Train an autoencoder, or read the one that the same training made before.

    Parameters
    ----------
    federation : Federation
    steps : int
        Of training.
    encoder : Classifier, optional
        See ``train_autoencoder``.
    """
    config, sources = federation.config, federation.sources
    told = None if encoder is None else vector_of(encoder).numpy().tobytes()
    text = f"{config.seed} {config.model.width} {config.model.latent} {config.source!r} {steps} "
    text += f"{sources.digest} {told and hashlib.sha256(told).hexdigest()}"
    path = kept_at(federation.graphs.cache, "autoencoder", text)
    new = {"autoencoder": new_autoencoder(sources, config.model, config.seed)}

    def train() -> dict[str, Autoencoder]:
        trained = train_autoencoder(
            sources, config.model, config.source, config.seed, steps, encoder
        )
        return {"autoencoder": trained}

    return kept(path, new, train)["autoencoder"].eval()
