"""Sessions that are compared are made alike."""

from typing import Final

import onnxruntime

import edge_kernels
from edge_kernels.bench.rivals import Rival
from edge_kernels.quick import QuickSession

# Threads of an idle session spin for a while, by default long enough to disturb whoever's turn is
# next. A millisecond keeps them awake between the calls of a turn. Older releases do not know the
# entry and ignore it.
_SPIN: Final = ("session.intra_op.spin_duration_us", "1000")


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry(*_SPIN)
    return options


def our_session(model: bytes, threads: int) -> QuickSession:
    """Make a session with the operators of ``flwr.edge``."""
    return edge_kernels.session(model, threads=threads, options=_options(threads))


def plain_session(model: bytes | str, threads: int) -> onnxruntime.InferenceSession:
    """Make a session with ONNX Runtime's own operators."""
    return onnxruntime.InferenceSession(
        model, _options(threads), providers=["CPUExecutionProvider"]
    )


def rival_session(rival: Rival, model: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Make a rival's session with its best settings."""
    options = _options(threads)
    for key, value in rival.config().items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
