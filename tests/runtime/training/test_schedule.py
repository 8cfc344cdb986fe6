import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exportloss.errors import ConfigError
from exportloss.runtime.training.hyp import TrainingConfig, read_hyp, unused_keys
from exportloss.runtime.training.schedule import PlannedStep, Schedule
from tests.support.messages import mentions

CONFIG = TrainingConfig()


def flat(schedule: Schedule) -> list[PlannedStep]:
    return [step for epoch in range(schedule.epochs) for step in schedule.steps(epoch)]


def test_the_rate_falls_along_a_line_or_a_cosine():
    line = Schedule(epochs=10, batches=1000, batch_size=16)
    cosine = dataclasses.replace(line, cosine=True)
    assert line.factor(0) == cosine.factor(0) == 1
    assert line.factor(4) == pytest.approx(0.6 * 0.99 + 0.01)
    assert cosine.factor(5) == pytest.approx((1 + 0.01) / 2)
    assert cosine.factor(2) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 5)) / 2)
    assert line.factor(10) == pytest.approx(0.01)
    assert cosine.factor(10) == pytest.approx(0.01)
    (last,) = {step.lr for step in line.steps(9)}
    assert last == pytest.approx((0.01 * 0.208,) * 3)


# Learning rate of the weights in the last batch of each of 15 epochs of 50 batches, as YOLOv5 would
# train: warm-up lasts 150 batches and aims at 0.01 * factor(epoch); its last batch is the first one
# of epoch 3, which keeps that rate; then comes factor(epoch - 1).
_WARM_UP = 49 / 150, 99 / 150, 149 / 150
_LINE = [1, 0.934, 0.868, 0.802, 0.802, 0.736, 0.67, 0.604]
_LINE += [0.538, 0.472, 0.406, 0.34, 0.274, 0.208, 0.142]
_COSINE = [1, 0.989183, 0.957205, 0.905463, 0.905463, 0.836220, 0.7525, 0.657963]
_COSINE += [0.556735, 0.453265, 0.352037, 0.2575, 0.173780, 0.104537, 0.052795]


@pytest.mark.parametrize(("cosine", "factors"), [(False, _LINE), (True, _COSINE)])
def test_the_rates_of_fifteen_epochs_are_the_originals(cosine, factors):
    schedule = Schedule(epochs=15, batches=50, batch_size=16, cosine=cosine)
    found = [schedule.steps(epoch)[-1].lr[0] for epoch in range(15)]
    warmed = [share * factor for share, factor in zip(_WARM_UP, factors[:3], strict=True)]
    assert found == pytest.approx([0.01 * factor for factor in (*warmed, *factors[3:])], rel=1e-4)
    for epoch in range(4, 15):  # all rates and all batches
        (lr,) = {step.lr for step in schedule.steps(epoch)}
        assert lr == pytest.approx((0.01 * factors[epoch],) * 3, rel=1e-4)


def test_the_epoch_in_which_warm_up_ends_keeps_the_rate_it_aimed_at():
    schedule = Schedule(epochs=10, batches=40, batch_size=16)  # warm-up: 120 batches, to epoch 3
    config = dataclasses.replace(CONFIG, warmup_epochs=2.6)  # 104 batches: into epoch 2
    early = dataclasses.replace(schedule, config=config)
    for planned, epoch in ((schedule, 3), (early, 2)):
        assert planned.steps(epoch)[-1].lr == pytest.approx((0.01 * planned.factor(epoch),) * 3)
        after = planned.steps(epoch + 1)[0]
        assert after.lr == pytest.approx((0.01 * planned.factor(epoch),) * 3)


def test_warm_up_by_hand():
    schedule = Schedule(epochs=10, batches=50, batch_size=16)
    assert schedule.warmup_batches == 150
    first = schedule.steps(0)[0]
    assert (first.lr, first.momentum, first.accumulate) == ((0.0, 0.0, 0.1), 0.8, 1)
    middle = schedule.steps(1)[25]  # batch 75 of 150; the line is at 0.901
    assert middle.lr == pytest.approx((0.004505, 0.004505, 0.054505))
    assert middle.momentum == pytest.approx(0.8685)
    assert middle.accumulate == 2  # between 1 and 4: 2.5, rounded to even
    after = schedule.steps(3)[1]
    assert after.lr == pytest.approx((0.01 * 0.703,) * 3)
    assert (after.momentum, after.accumulate) == (0.937, 4)


def test_adamw_keeps_its_betas_through_warm_up():
    schedule = Schedule(epochs=10, batches=50, batch_size=16, optimizer="adamw")
    assert {step.momentum for step in flat(schedule)} == {0.937}
    assert schedule.steps(0)[0].lr == (0.0, 0.0, 0.1)


@pytest.mark.parametrize(
    ("warmup_epochs", "batches", "expected"), [(3, 50, 150), (3, 10, 100), (0, 1000, 100)]
)
def test_warm_up_lasts_a_hundred_batches_at_least(warmup_epochs, batches, expected):
    config = dataclasses.replace(CONFIG, warmup_epochs=warmup_epochs)
    schedule = Schedule(epochs=10, batches=batches, batch_size=16, config=config)
    assert schedule.warmup_batches == expected


def test_a_run_that_never_leaves_warm_up_is_told():
    assert Schedule(epochs=10, batches=10, batch_size=16).warmup_covers_run
    assert not Schedule(epochs=11, batches=10, batch_size=16).warmup_covers_run


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "decay"),
    [(4, 16, 5e-4), (12, 5, 5e-4 * 60 / 64), (64, 1, 5e-4), (128, 1, 1e-3)],
)
def test_decay_is_for_the_images_that_an_update_takes(batch_size, accumulate, decay):
    schedule = Schedule(epochs=1, batches=1, batch_size=batch_size)
    assert schedule.accumulate == accumulate
    assert schedule.weight_decay == pytest.approx(decay)


def test_updates_come_with_accumulation_and_at_an_epochs_end():
    schedule = Schedule(epochs=10, batches=50, batch_size=16)
    updates = [index for index, step in enumerate(schedule.steps(5)) if step.update]
    assert updates == [*range(3, 48, 4), 49]
    early = [step.update for step in schedule.steps(0)[:9]]
    assert early == [True] * 9  # nothing to accumulate yet


def test_how_many_epochs_a_number_of_updates_means():
    schedule = Schedule(epochs=4, batches=50, batch_size=16)
    ends = [0, *itertools.accumulate(sum(s.update for s in schedule.steps(e)) for e in range(4))]
    for updates in range(ends[-1] + 2):
        expected = ends.index(updates) if updates in ends else None
        assert schedule.epochs_done(updates) == expected


@settings(deadline=None)
@given(
    epochs=st.integers(1, 6),
    batches=st.integers(1, 60),
    batch_size=st.integers(1, 130),
    cosine=st.booleans(),
    warmup_epochs=st.floats(0, 5),
)
def test_every_schedule(epochs, batches, batch_size, cosine, warmup_epochs):
    config = dataclasses.replace(CONFIG, warmup_epochs=warmup_epochs)
    schedule = Schedule(
        epochs=epochs, batches=batches, batch_size=batch_size, cosine=cosine, config=config
    )
    steps = flat(schedule)
    assert len(steps) == epochs * batches
    assert all(schedule.steps(epoch)[-1].update for epoch in range(epochs))
    for step in steps:
        assert step.lr[0] == step.lr[1]
        assert 0 <= step.lr[0] <= config.lr0
        assert step.lr[0] <= step.lr[2] <= config.warmup_bias_lr
        assert config.warmup_momentum <= step.momentum <= config.momentum
        assert 1 <= step.accumulate <= schedule.accumulate
    for one, two in itertools.pairwise(steps):
        assert one.accumulate <= two.accumulate
    for step in steps[schedule.warmup_batches :]:
        assert step.lr[0] == pytest.approx(step.lr[2])


@pytest.mark.parametrize("name", ["epochs", "batches", "batch_size", "nominal_batch"])
def test_a_schedule_of_nothing_is_refused(name):
    settings = {"epochs": 1, "batches": 1, "batch_size": 1, name: 0}
    with pytest.raises(ConfigError, match=rf"\b{name}\b.*\b0\b.*\b1\b"):
        Schedule(**settings)


def test_a_hyp_file_is_read(tmp_path):
    path = tmp_path / "hyp.yaml"
    path.write_text(
        "lr0: 0.02\nbox: 0.1\nfliplr: 0\nmosaic: 0.5\ncopy_paste: 0.1\nwarmup_epochs: 1\n"
    )
    values = read_hyp(path)
    config = TrainingConfig.from_mapping(values)
    assert config == TrainingConfig(lr0=0.02, fliplr=0, mosaic=0.5, warmup_epochs=1)
    assert unused_keys(values) == ["copy_paste"]
    assert read_hyp(None) == {}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("lr00: 0.1", ("unknown", "'lr00'")),
        ("lr0: -1", (":1:", "lr0", "-1", ">= 0")),
        ("lr0: fast", (":1:", "lr0", "'fast'", "number")),
        ("warmup_bias_lr: true", (":1:", "warmup_bias_lr", "True", "number")),
        ("lrf: .nan", (":1:", "lrf", "nan")),
        ("momentum: 1.0", (":1:", "momentum", "1.0", "below 1")),
        ("flipud: 2", (":1:", "flipud", "2", "[0, 1]")),
        ("degrees: 200", (":1:", "degrees", "200", "[0, 180]")),
        ("mosaic: 1.5", (":1:", "mosaic", "1.5", "[0, 1]")),
        ("fliplr: 0.5\nlr0: 0x1" + "0" * 200, (":2:", "YAML", "203 digits")),
        ("# none\nhsv_h: red", (":2:", "hsv_h", "'red'", "number")),
        ("just words", ("`key: value`",)),
    ],
)
def test_a_bad_hyp_file_is_refused(tmp_path, text, values):
    path = tmp_path / "hyp.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=mentions(path, *values)):
        read_hyp(path)
