"""Boxes on images, and plots of a run."""
