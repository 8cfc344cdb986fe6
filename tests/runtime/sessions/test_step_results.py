"""A result that is read when somebody looks at it, and reads as any other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from exportloss.runtime.sessions.step_results import LossTerms, PendingStepResult, StepResult

OUTPUTS = {
    "loss": np.array(6.0, np.float32),
    "items": np.array([1.0, 2.0, 3.0], np.float32),
    "skipped": np.array(True),
}


def test_a_pending_result_is_read_when_it_is_looked_at():
    reads = []
    result = PendingStepResult(lambda: reads.append(1) or OUTPUTS)
    assert not reads
    assert result.loss == 6.0
    assert reads


def test_a_pending_result_reads_as_any_other():
    result = PendingStepResult(lambda: OUTPUTS)
    expected = StepResult(loss=6.0, items=LossTerms(1.0, 2.0, 3.0), skipped=True)
    assert isinstance(result, StepResult)
    assert dataclasses.asdict(result) == dataclasses.asdict(expected)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.loss = 0.0


def test_steps_of_artifacts_that_do_not_say_are_not_skipped():
    outputs = {name: value for name, value in OUTPUTS.items() if name != "skipped"}
    assert PendingStepResult(lambda: outputs).skipped is False
