"""The machine: its description and its limits."""
