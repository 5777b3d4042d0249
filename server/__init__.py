"""The server: strategies on Flower's Strategy and Grid, rounds, the border of updates."""
