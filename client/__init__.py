"""The device: its windows, its learner on ONNX Runtime, and the learner as a Flower ClientApp."""
