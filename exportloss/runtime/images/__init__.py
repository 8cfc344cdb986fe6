"""Images decoded, scaled and letterboxed."""

from exportloss.runtime.images.letterbox import Letterbox, letterbox
from exportloss.runtime.images.load import load_image

__all__ = ["Letterbox", "letterbox", "load_image"]
