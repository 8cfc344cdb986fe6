"""Files of others, made up by a fuzzer, given to every reader of the package.

`fuzzing.targets` says what is read and how; `python -m fuzzing` lets atheris look for bytes that
break it; `tests/project/test_fuzzing.py` replays the seeds, and changes them a little,
without atheris.
"""
