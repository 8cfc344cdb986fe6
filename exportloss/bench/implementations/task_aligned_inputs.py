"""Inputs of the anchor-free loss, the same for every implementation. Needs numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exportloss.bench.scenario import Scenario
from exportloss.task_aligned_config import TaskAlignedConfig

__all__ = ["STRIDES", "make_anchor_free_maps"]

STRIDES = (8, 16, 32)


def make_anchor_free_maps(scenario: Scenario) -> list[npt.NDArray[np.float32]]:
    """Draw the maps of a detector without anchors, (B, 4 R + nc, H, W), one per level."""
    rng = np.random.default_rng(np.random.SeedSequence((scenario.seed, 2)))
    channels = 4 * TaskAlignedConfig().reg_max + scenario.num_classes
    return [
        rng.standard_normal(
            (scenario.batch_size, channels, *(side // stride for side in scenario.image_size)),
            dtype=np.float32,
        )
        for stride in STRIDES
    ]
