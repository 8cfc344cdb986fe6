"""The implementations that a benchmark compares."""
