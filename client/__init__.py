"""The device: its windows, its learner on ONNX Runtime, and the learner as a Flower ClientApp."""

import schemas.telemetry  # noqa: F401 - before ONNX Runtime
