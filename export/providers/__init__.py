"""What a provider does with a graph, from tables of its kernels. Needs no torch."""
