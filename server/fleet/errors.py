"""What the fleet refuses."""


class Refusal(ValueError):  # noqa: N818 - a verdict, not a defect
    """Something that is asked of the registry and not allowed; nothing was changed."""


class NotFoundError(Refusal):
    """A device, claim, bundle or roll-out that there is not."""


class NotConfirmedError(RuntimeError):
    """The operator did not say yes; nothing was changed."""


class FoundError(RuntimeError):
    """A check found what it looked for; it was printed."""
