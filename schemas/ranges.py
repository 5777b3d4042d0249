"""What the server asks of a device for ranges: how a model's values are spread, never a window.

A device runs the graph on its training windows, which gives counts of each value in a few bins.
Each window counts 1 a value, shared out over the bins, and their mean goes back: so a device counts
1 a value too, however many windows it has. Noise, where wanted, is added before that leaves.
"""

from typing import Final, Literal

from pydantic import Field

from schemas.base import Strict
from schemas.plan import Digest

Noise = Literal["laplace", "gaussian"]
LEAST_WINDOWS: Final = 16
MOST_VALUES: Final = 1024


class RangeTask(Strict):
    """The question of ``evaluate.ranges``.

    Noise on a mean that sums to 1: another person's windows would change it by at most 2 (the sum
    of magnitudes) a value, so Laplace's noise of scale 2·values/ε gives ε-differential privacy.
    Each answer costs that anew.
    """

    graph: Digest = Field(description="windows → counts (batch, values, bins) of each window.")
    bins: int = Field(64, ge=2, le=256, description="Few: enough for a range, not for a person.")
    windows: int = Field(
        256,
        ge=LEAST_WINDOWS,
        le=65_536,
        description=f"Most windows counted, evenly spread; fewer than {LEAST_WINDOWS} never are.",
    )
    noise: float = Field(
        0.0, ge=0, le=10, description="Laplace's scale, or Gauss's deviation; 0 for none."
    )
    kind: Noise = "laplace"
