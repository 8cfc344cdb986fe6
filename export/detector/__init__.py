"""Graphs of the detector alone, and the description of a detector that exporters share."""
