"""Simulations: the files, the data sets, ``LocalGrid``, the ``flwr-sim`` CLI and its reports."""
