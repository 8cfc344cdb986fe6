"""Fuzzing of every reader of the package.

`fuzzing.targets` lists the readers; `python -m fuzzing` lets atheris search for input that breaks
one; `tests/project/test_fuzzing.py` replays the seeds, also mutated, without atheris.
"""
