"""What the fleet refuses."""

from typing import Final


class Refusal(ValueError):  # noqa: N818 - a verdict, not a defect
    """Something that is asked of the registry and not allowed; nothing was changed."""


class NotFoundError(Refusal):
    """A device, claim, bundle or roll-out that there is not."""


class NotConfirmedError(RuntimeError):
    """The operator did not say yes; nothing was changed."""


class TakenError(RuntimeError):
    """Another process holds what only one may hold; nothing was changed."""


class FoundError(RuntimeError):
    """A check found what it looked for; it was printed."""


class Denied(Refusal):
    """A device's request that is refused, with a word for programs.

    Attributes
    ----------
    error
        One of ``STATUS``.
    """

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(detail)
        self.error, self.status = error, STATUS[error]


STATUS: Final = {
    "malformed": 400,
    "csr-malformed": 400,
    "csr-extensions": 400,
    "weak-key": 400,
    "not-this-fleet": 403,
    "claim-unknown": 403,
    "claim-expired": 403,
    "claim-used": 403,
    "claim-revoked": 403,
    "claim-other-name": 403,
    "certificate-expired": 403,
    "certificate-early": 403,
    "certificate-revoked": 403,
    "signature": 403,
    "device-revoked": 403,
    "device-rejected": 403,
    "other-name": 403,
    "other-key": 403,
    "not-found": 404,
    "too-slow": 408,
    "name-taken": 409,
    "key-reused": 409,
    "too-large": 413,
    "too-many": 429,
    "broken": 500,
}
