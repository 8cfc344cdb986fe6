"""Export of the loss alone, for pipelines that run the network elsewhere."""
