"""Where ``flwr-fleet`` starts, also where the packages that it needs are not installed."""

from schemas import extras


def main() -> None:
    """Run ``flwr-fleet``."""
    extras.start("flwr-fleet", "server.cli", "server")
