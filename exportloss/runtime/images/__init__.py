"""Images from files, resized to OpenCV's pixels."""
