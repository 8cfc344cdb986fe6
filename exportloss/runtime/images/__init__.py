"""Images decoded, scaled and letterboxed."""

from exportloss.runtime.images.load import Letterbox, letterbox, load_image

__all__ = ["Letterbox", "letterbox", "load_image"]
