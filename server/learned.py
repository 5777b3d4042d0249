"""What a strategy made of a round is checked before devices get it: they would be blamed."""

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from schemas.plan import Range
from server.border import floored, weights_record


def learned(
    arrays: ArrayRecord,
    before: NDArray[np.float32] | None = None,
    variances: Iterable[Range] = (),
) -> ArrayRecord:
    """A strategy's arrays as devices take them: one flat vector of finite float32.

    Floats of another width are cast: under numpy 2 Flower's FedAdam returns float64. Running
    variances stay above 0: a server's momentum would carry them below.

    Parameters
    ----------
    arrays : ArrayRecord
    before : (length,), optional
        The vector that the devices have had so far.
    variances : Iterable[Range]
        Where in it the running variances are.

    Raises
    ------
    ValueError
        Where they are something else; says what was given and what was expected.
    """
    length = None if before is None else len(before)
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
    kept = cast if before is None else floored(variances, cast.copy(), before)
    same = cast is vector and np.array_equal(kept, cast)
    return arrays if same else weights_record(kept)
