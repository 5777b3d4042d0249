"""The fleet's signing key, decrypted as ``fleet.toml`` says."""

import os
from typing import TYPE_CHECKING, Final

from schemas.base import ConfigError
from schemas.fleet import FleetConfig, FleetFolder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

VARIABLE: Final = "FLWR_FLEET_PASSPHRASE"


def signing_key(folder: FleetFolder, config: FleetConfig) -> "Ed25519PrivateKey":
    """Read the key with which bundles and tasks are signed.

    Raises
    ------
    ConfigError
        Where it is not there, or cannot be decrypted.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if config.secrets.kind == "file":
            secret = folder.secret(config).read_text(encoding="ascii").strip()
        else:
            secret = os.environ.get(VARIABLE, "")
        key = load_pem_private_key(folder.signing_key.read_bytes(), secret.encode() or None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(str(folder.signing_key), [str(error)]) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(str(folder.signing_key), ["expected an Ed25519 key"])
    return key
