"""Where ``flwr-sim`` starts, also where the packages that it needs are not installed."""

from schemas import extras


def main() -> None:
    """Run ``flwr-sim``."""
    extras.start("flwr-sim", "simulations.cli", "sim")
