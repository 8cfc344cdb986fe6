"""Child processes with limits, for files of somebody else's."""
