"""The loss alone as a graph, for pipelines that run the network elsewhere."""
