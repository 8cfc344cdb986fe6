"""Child processes with limits, for untrusted files."""
