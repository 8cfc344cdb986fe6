"""Videos and cameras, read and written frame by frame."""

from exportloss.runtime.video.video import open_video

__all__ = ["open_video"]
