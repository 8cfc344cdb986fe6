"""The training loop, its schedule, and the folder of a run."""
