"""Limits of what files may hold, each enforced before memory for it is allocated."""

from __future__ import annotations

from exportloss.errors import ConfigError

__all__ = [
    "MAX_ARTIFACT_FILES",
    "MAX_CLASSES",
    "MAX_HEADER_BYTES",
    "MAX_IMAGE_SIDE",
    "MAX_MANIFEST_BYTES",
    "MAX_MODEL_BYTES",
    "MAX_RESULTS_BYTES",
    "MAX_ROWS",
    "MAX_STATE_BYTES",
    "MAX_TENSORS",
    "MAX_THREADS",
    "check_threads",
]

MAX_MANIFEST_BYTES = 8 << 20  # YOLOv5x6's has 0.3 MiB
MAX_ARTIFACT_FILES = 64
MAX_MODEL_BYTES = (2 << 30) - 1  # of a protocol buffer, so of an ONNX file
MAX_STATE_BYTES = 8 << 30  # YOLOv5x6 with AdamW and a moving average has 2.3 GiB
MAX_HEADER_BYTES = 16 << 20  # of a safetensors file
MAX_TENSORS = 100_000  # of a state
MAX_CLASSES = 100_000
MAX_IMAGE_SIDE = 1 << 16  # pixels
MAX_RESULTS_BYTES = 64 << 20  # of a results.csv: some 300,000 epochs
MAX_ROWS = 1 << 20  # images in a batch, target rows in a batch
MAX_THREADS = 1024


def check_threads(name: str, threads: int) -> None:
    """Check a number of threads.

    Raises:
        ConfigError: the number is below 1, or above `MAX_THREADS`.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"{name} is {threads}; expected 1 to {MAX_THREADS}")
