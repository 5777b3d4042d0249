"""Commands of ``flwr-fleet``, a module a noun; each is an entry point of ``server.cli.GROUP``."""
