"""Check of a graph against the kernels of a provider. Needs no torch."""
