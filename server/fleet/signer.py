"""The fleet's signing key, decrypted as ``fleet.toml`` says."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.base import ConfigError
from schemas.fleet import FleetConfig, FleetFolder
from server.fleet import secret
from server.fleet.create import signing_key as decrypted


def signing_key(folder: FleetFolder, config: FleetConfig) -> Ed25519PrivateKey:
    """Read the key with which bundles and tasks are signed.

    Raises
    ------
    ConfigError
        Where it is not there, or cannot be decrypted.
    """
    key = decrypted(folder, secret.load(folder, config))
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(str(folder.signing_key), ["expected an Ed25519 key"])
    return key
