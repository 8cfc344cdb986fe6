"""Detectors published to inference servers, version by version."""
