"""Losses from plain arithmetic.

``nll_loss``'s backward pass comes out wrong from the ONNX exporter (torch 2.13: the loss agrees
and the gradient of the logits does not), so cross-entropy is written with a one-hot comparison.
"""

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy.

    Parameters
    ----------
    logits : (windows, classes)
    y : (windows,), int64
        Class indices.
    smoothing : float
        Share of the target that is spread evenly over all classes.

    Returns
    -------
    A scalar.
    """
    classes = logits.shape[1]
    target = (y[:, None] == torch.arange(classes)).to(logits.dtype)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / classes
    return -(target * log_softmax(logits)).sum(1).mean()


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities of (windows, classes), without the operator whose backward is fused."""
    shifted = logits - logits.amax(1, keepdim=True).detach()
    return shifted - shifted.exp().sum(1, keepdim=True).log()
