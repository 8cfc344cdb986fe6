"""Artifacts held against eager torch, step by step."""
