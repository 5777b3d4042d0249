"""The server: strategies on Flower's Strategy and Grid, rounds, and the border that updates cross."""
