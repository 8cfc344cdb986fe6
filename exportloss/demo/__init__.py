"""The whole job once, on drawn shapes."""
