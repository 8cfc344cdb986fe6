"""Data sets whose boxes are in a COCO file."""
