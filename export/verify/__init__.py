"""Verification of artifacts against eager torch, step by step."""
