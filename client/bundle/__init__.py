"""A personal model as one signed file. ``schemas/bundle.py`` is its manifest."""

from client.bundle.predictor import NotRunnableError, Predictor
from client.bundle.reader import Bundle, Trust
from client.bundle.reader import open_bundle as open  # noqa: A004 - as in gzip.open
from client.bundle.writer import write
from schemas.bundle import BundleError, Card, Expected, Input, Manifest, Normalisation

__all__ = [
    "Bundle",
    "BundleError",
    "Card",
    "Expected",
    "Input",
    "Manifest",
    "Normalisation",
    "NotRunnableError",
    "Predictor",
    "Trust",
    "open",
    "write",
]
