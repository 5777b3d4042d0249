"""What is learned: one strategy a file, found by entry point (``flwr_edge.strategy``)."""
