"""Commands of ``flwr-edge``, one module a noun."""
