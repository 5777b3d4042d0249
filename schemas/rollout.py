"""What a device is told to do with a bundle, as a task's payload carries it."""

from typing import Final

from pydantic import Field

from schemas.base import Strict
from schemas.plan import Digest

ACTION: Final = "bundle"
BACK: Final = "bundle.back"
RECORD: Final = "bundle"  # of the payload, both ways


class BundleOrder(Strict):
    """Install a bundle, which the task's first object is; its base, if it has one, is the second.

    Attributes
    ----------
    bundle
        SHA-256 of its file. For ``bundle.back``: the one to go back from.
    published
        Unix time at the server: an older bundle than the one installed is refused …
    downgrade
        … unless this is so.
    other_backbone
        Whether it may be of another backbone than the one installed.
    latency_us
        Most that a window may take; a window's own length where it is left out.
    windows
        Most of the device's own last windows to prove it on.
    predictions, seconds
        Of probation: it ends with the first of the two.
    """

    bundle: Digest
    published: float = Field(0.0, ge=0)
    downgrade: bool = False
    other_backbone: bool = False
    latency_us: float | None = Field(None, gt=0)
    windows: int = Field(32, ge=0, le=1024)
    predictions: int = Field(100, ge=0, le=1_000_000)
    seconds: float = Field(600.0, ge=0, le=2_592_000)
