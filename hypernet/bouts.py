"""People do one thing for a while: class probabilities of windows smoothed over their neighbours.

A hidden Markov chain over classes: from a window to the next the class stays with probability
``stay``, or is drawn anew from all classes alike. Forward–backward gives each window's posterior,
given the whole stream (Rabiner, 1989). A device has no loops in its graphs, so the recursion is a
scan of (classes, classes) matrices whose depth is the logarithm of the stream's length (Särkkä and
García-Fernández, arXiv:2102.05743).
"""

import torch
from torch import Tensor

LEVELS = 11
"""Of the scan: a window hears of 2^11 − 1 neighbours on either side; streams to 2,048 are exact."""


def smooth(scores: Tensor, stay: Tensor, levels: int = LEVELS) -> Tensor:
    """Posteriors of the chain's classes.

    Parameters
    ----------
    scores : (windows, classes)
        Log-likelihood of each window under each class, up to a constant a window; in the order of
        time. −inf forbids a class.
    stay : scalar
        In [0, 1); 0: each window stands alone.
    levels : int
        Of the scan.

    Returns
    -------
    (windows, classes), rows sum to 1.
    """
    likely = (scores - scores.amax(1, keepdim=True)).exp()
    place = torch.arange(likely.shape[0])
    backwards = likely.shape[0] - 1 - place
    reached = _reached(torch.stack([likely, likely[backwards]]), place, stay, levels)
    both = reached[0] * reached[1][backwards] / likely.clamp(min=_TINY)  # each has its likelihood
    return both / both.sum(1, keepdim=True)


_TINY = 1e-30


def _reached(likely: Tensor, place: Tensor, stay: Tensor, levels: int) -> Tensor:
    """Probabilities of each window's class, given all up to it; (streams, windows, classes).

    Neighbours are gathered: slices and concatenations of a free size take minutes to trace.
    """
    classes = likely.shape[2]
    same = torch.eye(classes)
    step = stay * same + (1 - stay) / classes
    product = _scaled(step * likely[:, :, None])
    for level in range(levels):
        earlier = place - 2**level
        before = product.index_select(1, earlier.clamp(min=0))
        before = torch.where(earlier[:, None, None] < 0, same, before)
        product = _scaled(before @ product)
    ahead = product.sum(2)  # from any class alike
    return ahead / ahead.sum(2, keepdim=True).clamp(min=_TINY)


def _scaled(product: Tensor) -> Tensor:
    return product / product.sum((2, 3), keepdim=True).clamp(min=_TINY)
