"""Why the other side's certificate is not good, and what is to be done about it."""

import ssl
from typing import Final

# OpenSSL's words for a certificate that is of none of the authorities that are trusted here.
_UNKNOWN: Final = frozenset({18, 19, 20, 21})
_TIMES: Final = frozenset({9, 10})  # not yet valid, expired
_ROLLED: Final = (
    "no authority that is trusted here made it: it is another server, or its authority was rolled "
    "over while this device was off; then ask the operator for: flwr-fleet device rotate"
)
_CLOCK: Final = "is this device's clock right? Then it is the server's, which its operator renews"


def distrusted(error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with it, and what to do where that is known."""
    hint = _ROLLED if error.verify_code in _UNKNOWN else ""
    hint = _CLOCK if error.verify_code in _TIMES else hint
    said = f"its certificate is not good: {error.verify_message}"
    return f"{said}; {hint}" if hint else said
