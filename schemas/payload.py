"""What a message holds, without Flower: named records of arrays, of settings and of metrics.

The learner's door (``client/device.py``) takes and gives it; Flower's records are turned into it
where Flower carries the message, and ``schemas/wire.py`` where MQTT does.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Values = dict[str, Any]


class PayloadError(ValueError):
    """A message that lacks what its receiver needs, or holds it in the wrong form."""


@dataclass
class Payload:
    """Records by name.

    Attributes
    ----------
    arrays : dict[str, dict[str, array]]
    config : dict[str, dict[str, value]]
        Whole numbers, floats, texts, booleans, bytes, and lists of one of these.
    metrics : dict[str, dict[str, number or list of numbers]]
    """

    arrays: dict[str, Arrays] = field(default_factory=dict)
    config: dict[str, Values] = field(default_factory=dict)
    metrics: dict[str, Values] = field(default_factory=dict)

    def vector(self, record: str, name: str) -> NDArray[np.float32]:
        """A float32 vector.

        Raises
        ------
        PayloadError
            If it is missing or something else.
        """
        array = self.arrays.get(record, {}).get(name)
        if array is None:
            raise PayloadError(f"no array {name!r} in {record!r}")
        if array.dtype != np.float32 or array.ndim != 1:
            kind = f"{array.dtype}{list(array.shape)}"
            raise PayloadError(f"{record}/{name} is {kind}; a float32 vector is needed")
        return array

    def setting(self, record: str, name: str) -> Any:
        """A value of a config record.

        Raises
        ------
        PayloadError
            If it is missing.
        """
        try:
            return self.config[record][name]
        except KeyError:
            raise PayloadError(f"no setting {name!r} in {record!r}") from None
