"""The detector alone as a graph, and what an export has to know of it."""
