"""Networks that devices run; every one takes raw windows and the person's input statistics."""

from hypernet.networks.autoencoder import Autoencoder, MlpAutoencoder
from hypernet.networks.classifier import Classifier
from hypernet.networks.encoder import ConvEncoder, MlpEncoder
from hypernet.networks.inputs import InputSpec
from hypernet.networks.transformer import TransformerEncoder

__all__ = [
    "Autoencoder",
    "Classifier",
    "ConvEncoder",
    "InputSpec",
    "MlpAutoencoder",
    "MlpEncoder",
    "TransformerEncoder",
]
