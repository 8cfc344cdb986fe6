"""Defaults of a verification, for its function and the command. Needs no torch."""

from __future__ import annotations

__all__ = ["LEARNING_RATE", "SEED", "STEPS"]

STEPS = 5
LEARNING_RATE = 5e-4
SEED = 0
