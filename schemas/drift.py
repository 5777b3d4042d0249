"""How a device notices drift, and what it says of it; part of a plan."""

from typing import Annotated, Final, Literal

from pydantic import Field

from schemas.base import Strict

Choice = Literal["keep", "back", "ask"]
"""Go on with the present adapter, bring back an older one, or ask for another."""

RECORD: Final = "drift"
"""Of an answer to ``query.drift``: settings ``choice``, and ``distance`` where one was kept."""

CONDITION: Final = "condition"
"""The report that a device compares, and tells where it asks."""


class Drift(Strict):
    """What a device compares its condition with, and when it asks for another adapter."""

    backbone: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="SHA-256 of the network: adapters of another one are dropped."
    )
    threshold: float | None = Field(
        None,
        ge=0,
        description="The adapter of a condition nearer than this is used on; 0: none ever is, the "
        "device always asks; left out: the present one always is.",
    )
    most: int = Field(8, ge=1, le=1024, description="Adapters that a device keeps.")
    begin: bool = Field(False, description="Forget those kept, first.")
