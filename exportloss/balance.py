"""Initial objectness weights of the levels, before autobalance changes them."""

__all__ = ["MAX_LEVELS", "initial_balance"]

_OF_THREE = (4.0, 1.0, 0.4)  # YOLOv5 has separate weights for three levels
_OF_OTHERS = (4.0, 1.0, 0.25, 0.06, 0.02)
MAX_LEVELS = len(_OF_OTHERS)


def initial_balance(levels: int) -> tuple[float, ...]:
    """Return one weight per level, fine to coarse, for 2 to 5 levels."""
    return _OF_THREE if levels == len(_OF_THREE) else _OF_OTHERS[:levels]
