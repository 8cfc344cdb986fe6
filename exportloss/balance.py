"""Objectness weights of the levels before autobalance changes them."""

__all__ = ["MAX_LEVELS", "initial_balance"]

_OF_THREE = (4.0, 1.0, 0.4)  # three levels have a table of their own in YOLOv5
_OF_OTHERS = (4.0, 1.0, 0.25, 0.06, 0.02)
MAX_LEVELS = len(_OF_OTHERS)


def initial_balance(levels: int) -> tuple[float, ...]:
    """Return the weight of each of 2 to 5 levels, fine to coarse."""
    return _OF_THREE if levels == len(_OF_THREE) else _OF_OTHERS[:levels]
