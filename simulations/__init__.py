"""Simulations: the files, the data sets, ``LocalGrid``, the ``flwr-sim`` CLI and its reports."""

import schemas.telemetry  # noqa: F401 - before ONNX Runtime
