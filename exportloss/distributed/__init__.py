"""Data parallel training: several processes share the batches of each update."""
