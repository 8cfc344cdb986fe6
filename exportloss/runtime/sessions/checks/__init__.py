"""Checks of a step's inputs, of a graph's target and of an engine's results."""
