"""Sessions: what runs a graph, on which device."""
