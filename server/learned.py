"""What a strategy made of a round is checked before devices get it: they would be blamed."""

import numpy as np
from flwr.app import ArrayRecord

from server.border import weights_record


def learned(arrays: ArrayRecord, length: int | None = None) -> ArrayRecord:
    """A strategy's arrays as devices take them: one flat vector of finite float32.

    Floats of another width are cast: under numpy 2 Flower's FedAdam returns float64.

    Parameters
    ----------
    arrays : ArrayRecord
    length : int, optional
        Entries of the vector that the devices have had so far.

    Raises
    ------
    ValueError
        Where they are something else; says what was given and what was expected.
    """
    expected = f"expected weights float32[{length or 'length'}]"
    if list(arrays) != ["weights"]:
        raise ValueError(f"arrays named {', '.join(arrays) or '(none)'}; {expected}")
    vector = arrays["weights"].numpy()
    given = f"weights {vector.dtype}[{', '.join(map(str, vector.shape))}]"
    whole = vector.ndim == 1 and length in (None, len(vector))
    if vector.dtype.kind != "f" or not whole:
        raise ValueError(f"{given}; {expected}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        cast = vector.astype(np.float32, copy=False)
    if not np.isfinite(cast).all():
        raise ValueError(f"{given} that hold NaN or infinity; {expected}, all finite")
    return arrays if cast is vector else weights_record(cast)
