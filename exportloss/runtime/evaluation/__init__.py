"""Detectors at work: inference, suppression, metrics."""
