"""Torch: the networks that devices run, the generators of their weights, and their graphs."""
