"""Federated training: what a device does in a round, and what is made of the results."""
