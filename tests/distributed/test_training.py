"""Several ranks train as one process does, bit for bit, and end together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from exportloss import DataError, ExportLossError, TrainingError
from exportloss.distributed.follower import follow
from exportloss.distributed.leader import Leader
from exportloss.distributed.rounds import batches_of, plan_rounds
from exportloss.runtime import TrainSession
from exportloss.runtime.data.loader import Batch
from exportloss.runtime.training.trainer import TrainResult
from tests.support.messages import mentions, missing
from tests.support.threads_as_ranks import ThreadCommunicator, run_ranks
from tests.support.tiny_runs import export_tiny, make_tiny_shapes
from tests.support.training_runs import Recorder, Run, assert_same_run, make_run

Change = Callable[[int, TrainSession], None]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("distributed")
    return {name: export_tiny(folder / name, optimizer=name) for name in ("sgd", "adamw")}


@pytest.fixture
def new_run(shapes: Path, tmp_path: Path) -> Callable[[str], Run]:
    """Two epochs of 4 batches, with updates after 1, 3 and 4 of them."""

    def new(name: str) -> Run:
        run = make_run(shapes, tmp_path / name)
        schedule = dataclasses.replace(run.schedule, epochs=2, nominal_batch=400)
        return run.but(schedule=schedule)

    return new


def open_session(artifact: Path) -> TrainSession:
    return TrainSession.open(artifact, threads=1)


def train_together(
    artifact: Path, run: Run, ranks: int, *, change: Change = lambda rank, session: None, **how
) -> list[TrainResult | BaseException | bool]:
    def work(communicator: ThreadCommunicator) -> TrainResult | bool:
        session = open_session(artifact)
        change(communicator.rank, session)
        if communicator.rank == 0:
            with Leader(communicator) as leader:
                return run.train(session, steps=leader, **how)
        return follow(communicator, session, run.train_batches, run.schedule, overflow="auto")

    return run_ranks(ranks, work)


def spoil(session: TrainSession, batches: Sequence[Batch]) -> TrainSession:
    """Let the loss of these batches be NaN, whenever they come."""
    step = session.step

    def step_on_nan(images, *args, **options):
        if not any(np.array_equal(images, bad.images) for bad in batches):
            return step(images, *args, **options)
        weights = session.read_vector("parameters")
        session.write_vector("parameters", np.full_like(weights, np.nan))
        result = step(images, *args, **options)
        assert result.skipped
        session.write_vector("parameters", weights)
        return result

    session.step = step_on_nan
    return session


def test_rounds_end_with_updates(new_run):
    steps = [one for epoch in range(2) for one in new_run("exp").schedule.steps(epoch)]
    rounds = plan_rounds(steps, 2)
    assert [(one.first, len(one.plans), one.is_new) for one in rounds] == [
        (0, 1, True),
        (1, 2, True),
        (3, 1, False),
        (4, 2, True),
        (6, 2, False),
    ]
    assert [batches_of(rounds, rank) for rank in range(3)] == [[0, 1, 3, 4, 6], [2, 5, 7], []]
    assert [step for one in rounds for step in one.plans] == steps


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_train_as_one_process(artifacts, new_run, optimizer, ranks):
    alone, together = new_run("one"), new_run("many")
    result = alone.train(open_session(artifacts[optimizer]))
    lead, *others = train_together(artifacts[optimizer], together, ranks)
    assert isinstance(lead, TrainResult), lead
    assert others == [True] * (ranks - 1)
    assert (lead.updates, lead.best.epoch) == (result.updates, result.best.epoch) != (8, 0)
    assert_same_run(alone.folder, together.folder)


def test_ranks_train_with_the_task_aligned_loss(anchor_free_artifact, new_run):
    alone, together = new_run("one"), new_run("many")
    alone.train(open_session(anchor_free_artifact))
    lead, other = train_together(anchor_free_artifact, together, 2)
    assert isinstance(lead, TrainResult), lead
    assert other is True
    assert_same_run(alone.folder, together.folder)


@pytest.mark.parametrize("bad", [[1], [3], [0, 3]], ids=str)
def test_a_skipped_batch_is_skipped_by_all(artifacts, new_run, bad):
    """One in the middle of a sum leaves it alone; the last of a sum keeps it from being used."""
    alone, together = new_run("one"), new_run("many")
    spoilt = [list(alone.train_batches.epoch(1))[number] for number in bad]
    alone_saw, together_saw = Recorder(), Recorder()
    result = alone.train(spoil(open_session(artifacts["sgd"]), spoilt), reporter=alone_saw)
    lead, _ = train_together(
        artifacts["sgd"],
        together,
        2,
        change=lambda rank, session: spoil(session, spoilt),
        reporter=together_saw,
    )
    assert isinstance(lead, TrainResult), lead
    assert [one.skipped for one in lead.epochs] == [0, len(bad)]
    assert lead.updates == result.updates == 3 - (3 in bad)
    assert str(together_saw.skipped) == str(alone_saw.skipped)  # as text: NaN is not itself
    assert_same_run(alone.folder, together.folder)


def test_too_many_skipped_on_another_rank_end_all(artifacts, new_run):
    run = new_run("exp")
    bad = list(run.train_batches.epoch(1))[1]
    lead, other = train_together(
        artifacts["sgd"],
        run,
        2,
        change=lambda rank, session: spoil(session, [bad]),
        max_skipped=1,
    )
    assert isinstance(lead, TrainingError)
    assert not missing(str(lead), "epoch 1", "batch 2 of 4")
    with np.load(run.folder.skipped_batch) as kept:
        np.testing.assert_array_equal(kept["images"], bad.images)
    assert other is False


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize(
    ("error", "kind"), [(DataError("x.jpg is damaged"), DataError), (OSError(5, "no disk"), None)]
)
def test_an_error_on_a_rank_ends_all(artifacts, new_run, rank, error, kind):
    def fail(number: int, session: TrainSession) -> None:
        if number == rank:
            session.step = lambda *args, **options: (_ for _ in ()).throw(error)

    lead, *others = train_together(artifacts["sgd"], new_run("exp"), 3, change=fail)
    assert type(lead) is (kind or ExportLossError)
    text = "x.jpg" if kind else "OSError"
    with pytest.raises(ExportLossError, match=mentions(f"rank {rank} of 3", text)):
        raise lead
    assert others == [False, False]


def test_an_interrupted_run_goes_on_with_other_ranks(artifacts, new_run):
    alone, together = new_run("one"), new_run("many")
    alone.train(open_session(artifacts["adamw"]))
    lead, *others = train_together(artifacts["adamw"], together, 3, reporter=Recorder((1, 2)))
    assert isinstance(lead, KeyboardInterrupt)
    assert others == [False, False]
    lead, _ = train_together(artifacts["adamw"], together, 2, resume=True)
    assert isinstance(lead, TrainResult), lead
    assert_same_run(alone.folder, together.folder)
