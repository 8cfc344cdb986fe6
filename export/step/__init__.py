"""The portable step: a whole training step as one graph of standard operators."""
