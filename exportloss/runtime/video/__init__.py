"""Videos and cameras, read and written frame by frame."""
