"""``flwr-fleet train``: a strategy's rounds on the fleet; ``run.train`` is the door."""
