"""Checks a task's signature in a process of its own.

``cryptography`` takes 9 MiB of memory, which the daemon would keep; the process takes them for a
quarter of a second.
"""

import subprocess
import sys
from typing import Final

from schemas import wire
from schemas.signing import SignatureError, verify_task

_SECONDS: Final = 60.0
_FORGED: Final = 3  # the exit code


def verify(public: str, device: str, envelope: wire.Envelope) -> None:
    """Check that a task was signed by the fleet's key, for this device, in this envelope.

    Raises
    ------
    SignatureError
        Where it was not, or cannot be checked.
    """
    if isinstance(envelope.body, wire.Task) and envelope.body.signature is None:
        raise SignatureError("no signature; this device takes signed tasks only")
    command = [sys.executable, "-P", "-m", "client.verifier", public, device]
    data = wire.encode(envelope)
    try:
        done = subprocess.run(  # noqa: S603 (our own module)
            command, input=data, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SignatureError(f"the signature cannot be checked: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        unchecked = "" if done.returncode == _FORGED else "the signature cannot be checked: "
        raise SignatureError(unchecked + said[-1])


def main() -> None:
    """Check the envelope on standard input; the reason goes to standard error."""
    public, device = sys.argv[1:]
    try:
        verify_task(public, device, wire.decode(sys.stdin.buffer.read()))
    except SignatureError as error:
        print(error, file=sys.stderr)  # noqa: T201 (its answer)
        sys.exit(_FORGED)


if __name__ == "__main__":
    main()
