"""Rates, momentum and updates of every batch, and the decay of the moving average."""

from __future__ import annotations

from typing import Any

from exportloss.runtime.optimizers.ema import decay_after
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.schedule import Schedule

_SHORT = {"warmup_epochs": 0.0}
_CASES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("defaults", {"epochs": 4, "batches": 60, "batch_size": 16}, {}),
    ("cosine", {"epochs": 5, "batches": 40, "batch_size": 16, "cosine": True}, {}),
    ("no update waits", {"epochs": 3, "batches": 50, "batch_size": 128}, _SHORT),
    (
        "AdamW keeps its betas",
        {"epochs": 2, "batches": 60, "batch_size": 32, "optimizer": "adamw"},
        {},
    ),
    ("RMSProp", {"epochs": 2, "batches": 60, "batch_size": 32, "optimizer": "rmsprop"}, {}),
    ("shorter than warm-up", {"epochs": 3, "batches": 7, "batch_size": 4}, {}),
    ("odd batch", {"epochs": 3, "batches": 41, "batch_size": 24, "nominal_batch": 60}, {}),
    (
        "other rates",
        {"epochs": 6, "batches": 30, "batch_size": 8, "nominal_batch": 20},
        {"lr0": 0.02, "lrf": 0.2, "momentum": 0.9, "warmup_epochs": 4.5, "warmup_bias_lr": 0.0},
    ),
)
_UPDATES = (1, 2, 3, 10, 100, 999, 2000, 12345, 1 << 20)


def make(files: dict[str, bytes]) -> list[object]:
    cases: list[object] = []
    for name, options, config in _CASES:
        schedule = Schedule(**options, config=TrainingConfig(**config))
        steps = [
            [step.lr[0], step.lr[1], step.lr[2], step.momentum, step.accumulate, step.update]
            for epoch in range(schedule.epochs)
            for step in schedule.steps(epoch)
        ]
        settings = {"optimizer": "sgd", "cosine": False, "nominal_batch": 64} | options
        keys = ("lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum")
        rates = {key: getattr(schedule.config, key) for key in (*keys, "warmup_bias_lr")}
        cases.append(
            {
                "what": "schedule",
                "name": name,
                **settings,
                "config": rates,
                "weight_decay": schedule.weight_decay,
                "warmup_batches": schedule.warmup_batches,
                "steps": steps,
            }
        )
    decays = [decay_after(updates) for updates in _UPDATES]
    cases.append({"what": "ema", "name": "decay", "updates": _UPDATES, "decays": decays})
    return cases
