"""`exportloss train`: train exported artifacts on a data set in YOLO's or COCO's format."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exportloss.cli.arguments import ExportSettings, smooth_labels
from exportloss.cli.data_report import print_recall
from exportloss.cli.export.own_model import is_function_name
from exportloss.cli.export.suiting import suit_anchors
from exportloss.cli.export.weights import LoadedDetector, load_detector
from exportloss.cli.export.writing import export_artifacts
from exportloss.cli.outputs import check_run_folder, dataset_files, dataset_folders, dataset_trees
from exportloss.cli.terminal import say
from exportloss.cli.train.distributed import Ready, train_on_ranks
from exportloss.cli.train.engine_notes import engine_notes, openvino_version
from exportloss.cli.train.features import check_features, check_images, steps_for
from exportloss.cli.train.flags import add_train_arguments
from exportloss.cli.train.images import draw_data, draw_results, has_results
from exportloss.cli.train.options import TrainOptions, fill_options, write_options
from exportloss.cli.train.progress import report
from exportloss.cli.train.report import Plan, print_data, print_plan, print_result
from exportloss.cli.train.resume import check_resumed, run_to_resume, updated_options
from exportloss.cli.train.source import Source, find_source, loss_settings_of
from exportloss.cli.train.tensorboard import WithEvents
from exportloss.config import LossConfig
from exportloss.distributed.distributable import device_of_rank, threads_of_rank
from exportloss.distributed.mpi import MpiCommunicator
from exportloss.distributed.nccl import check_nccl
from exportloss.errors import ArtifactError, ConfigError, DeviceError, ExportLossError
from exportloss.runtime.artifact.kinds import KINDS_BY_FORMAT
from exportloss.runtime.artifact.manifest import MANIFEST_NAME, Manifest
from exportloss.runtime.data.anchors import best_possible_recall, box_sides
from exportloss.runtime.data.capacity import check_batches, check_capacity
from exportloss.runtime.data.dataset import DataConfig, Dataset, Split, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.data.summary import refuse_nothing_to_learn, summarize
from exportloss.runtime.sessions.devices import Device, check_device, import_engine
from exportloss.runtime.sessions.installation import import_onnxruntime_training
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.training.event_file import EventFile
from exportloss.runtime.training.history import make_current
from exportloss.runtime.training.hyp import TrainingConfig, read_hyp
from exportloss.runtime.training.origin import Origin, data_digest, write_origin
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.steps import EpochSteps
from exportloss.runtime.training.trainer import RunCompleteError, TrainResult, train

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a detector on this device",
        description="Train exported artifacts on a data set in YOLO's or COCO's format. Needs "
        "neither torch nor onnx when --weights is an artifacts folder.",
        epilog="example: exportloss train --weights artifacts --data data.yaml --epochs 30",
    )
    add_train_arguments(parser)
    parser.set_defaults(run=run)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A training that nothing speaks against, before a folder is made.

    Attributes:
        source: Artifacts, or what to export first.
        session: Open session of the artifacts; None if they are to be exported.
        detector: Detector to export; None if there are artifacts.
        plan: Batches and schedule.
        hyp: Hyperparameters.
    """

    source: Source
    session: TrainSession | None
    detector: LoadedDetector | None
    plan: Plan
    hyp: dict[str, Any]


def run(options: argparse.Namespace) -> int:
    """Train, or resume; print the results."""
    if options.distributed is not None:
        return _run_on_ranks(options)
    resumed = run_to_resume(options)
    filled = fill_options(options, resumed)
    return _carry_out(_prepare(filled, resumed), filled, resumed, steps_for(filled))


def _run_on_ranks(options: argparse.Namespace) -> int:
    """Train with all processes that were started; this is one of them."""
    communicator = MpiCommunicator()

    def prepare() -> tuple[Ready, Callable[[EpochSteps], int]]:
        resumed = run_to_resume(options)
        filled = fill_options(options, resumed)
        own = dataclasses.replace(
            filled,
            device=device_of_rank(filled.device, communicator),
            threads=threads_of_rank(filled.threads, communicator),
        )
        nccl = check_nccl(own.device) if filled.distributed == "nccl" else None
        prepared = _prepare(own, resumed)
        if prepared.session is None:
            raise ConfigError(
                f"several processes train an artifacts folder, and {filled.weights} is none; "
                "write one first: exportloss export",
                argument="weights",
            )
        ready = Ready(
            session=prepared.session,
            plan=prepared.plan,
            overflow=filled.overflow,
            device=own.device,
            nccl=nccl,
        )
        return ready, functools.partial(_carry_out, prepared, filled, resumed)

    return train_on_ranks(communicator, prepare)


def _prepare(options: TrainOptions, resumed: RunFolder | None) -> _Prepared:
    """Read everything and refuse what can be refused."""
    if is_function_name(options.model):
        raise ConfigError(
            f"--model {options.model}: a detector of your own is exported first; run `exportloss "
            "export` with it, then pass the folder as --weights"
        )
    data = read_data_yaml(options.data, single_class=options.single_cls)
    loss = loss_settings_of(options)
    hyp = smooth_labels(read_hyp(options.hyp, loss=loss), options.label_smoothing, loss=loss)
    source = find_source(options, data, hyp)
    check_features(options, source.what)
    _check_outputs(options, data, source.what, resumed)
    plan = _plan(options, data, hyp, source.what)
    refuse_nothing_to_learn(plan.train, summarize(plan.train))
    # Everything that can be refused is refused before a folder is made.
    if resumed is not None:
        source = dataclasses.replace(source, state=check_resumed(resumed, options, plan.train))
    if isinstance(source.what, Manifest):
        session, detector = _open(source, plan, options), None
    else:
        session, detector = None, _load(source.what, options)
    print_plan(plan, hyp)
    if not source.what.ema:
        say("note: no moving average of the weights is kept, unlike in YOLOv5; export with --ema")
    print_data(plan, source.what.max_targets, options)
    if isinstance(source.what, Manifest):
        _print_recall(source.what, plan.train)
    else:
        assert detector is not None
        suit_anchors(detector, source.what, plan.train)
    return _Prepared(source=source, session=session, detector=detector, plan=plan, hyp=hyp)


def _carry_out(
    prepared: _Prepared, options: TrainOptions, resumed: RunFolder | None, steps: EpochSteps
) -> int:
    """Make the run's folder, and train."""
    source, session, plan = prepared.source, prepared.session, prepared.plan
    folder = resumed or RunFolder.create(options.project, options.name, exist_ok=options.exist_ok)
    try:
        with folder.locked(), contextlib.ExitStack() as stack:
            if session is None:
                assert isinstance(source.what, ExportSettings)
                assert prepared.detector is not None
                session = _export(source.what, prepared.detector, folder, options)
            if resumed is None:
                _record(folder, source, session, plan, options=options, hyp=prepared.hyp)
            else:
                stack.enter_context(updated_options(folder, options))
            if not options.noplots:
                draw_data(folder, plan.train, again=resumed is None)
            _finish(session, plan, folder, options, resume=resumed is not None, steps=steps)
            draw_results(folder, options, has_validation=plan.val is not None)
    except ExportLossError:
        with contextlib.suppress(OSError):  # it is not empty once training began
            folder.path.rmdir()
        raise
    return 0


def _open(source: Source, plan: Plan, options: TrainOptions) -> TrainSession:
    """Open the artifacts, with the weights to begin with."""
    assert isinstance(source.what, Manifest) and source.artifacts is not None
    for batches in filter(None, (plan.train, plan.val)):
        check_batches(batches, source.what, options.overflow)
    session = _open_artifacts(source.artifacts, options)
    if source.state is not None:
        session.start_from(source.state)
        say(f"weights: those of {source.state}")
    return session


def _load(settings: ExportSettings, options: TrainOptions) -> LoadedDetector:
    """Load the detector to export, after a check that this device can train it."""
    device = Device.parse(options.device)
    check_device(import_engine(device), device)
    if KINDS_BY_FORMAT[options.format].training_build:
        import_onnxruntime_training()
    return load_detector(settings)


def _record(
    folder: RunFolder,
    source: Source,
    session: TrainSession,
    plan: Plan,
    *,
    options: TrainOptions,
    hyp: dict[str, Any],
) -> None:
    """Record how the run begins; from then on it can be resumed."""
    origin = Origin.now(
        state=source.state,
        manifest=session.folder / MANIFEST_NAME,
        run=None if source.run is None else source.run.path,
        data=data_digest(plan.train),
    )
    write_origin(folder.origin, origin)
    write_options(folder, options, session, plan.schedule, hyp)


def _print_recall(manifest: Manifest, batches: Batches) -> None:
    if not isinstance(manifest.loss, LossConfig):  # it has no anchors
        return
    recall = best_possible_recall(box_sides(batches), manifest.anchors, manifest.loss.anchor_t)
    print_recall(recall, can_change=False)


def _check_outputs(
    options: TrainOptions,
    data: DataConfig,
    what: Manifest | ExportSettings,
    resumed: RunFolder | None,
) -> None:
    """Refuse a new run that would overwrite its inputs."""
    if resumed is not None:
        return
    read = [Path(name) for name in (options.hyp, options.weights) if name and Path(name).exists()]
    check_run_folder(
        Path(options.project, options.name),
        [*dataset_files(data), *read],
        exist_ok=options.exist_ok,
        searched=dataset_folders(data),
        kept=dataset_trees(data),
        folders=["weights"],
        trees=[] if isinstance(what, Manifest) else ["artifacts"],
    )


def _finish(
    session: TrainSession,
    plan: Plan,
    folder: RunFolder,
    options: TrainOptions,
    *,
    resume: bool,
    steps: EpochSteps,
) -> None:
    """Train to the end, unless only plots are missing; make the run the current one."""
    try:
        print_result(_train(session, plan, folder, options, resume=resume, steps=steps))
    except RunCompleteError:
        if options.noplots or has_results(folder, has_validation=plan.val is not None):
            raise
    _use(folder)


def _use(folder: RunFolder) -> None:
    """Make a complete run the current one of its project."""
    try:
        make_current(folder)
    except ArtifactError as error:  # a file system without links, or a folder of that name
        say(f"note: {error}")


def _plan(
    options: TrainOptions,
    data: DataConfig,
    hyp: dict[str, Any],
    source: Manifest | ExportSettings,
) -> Plan:
    """Read all labels, and check that the batches fit the graph."""
    config = TrainingConfig.from_mapping(hyp, loss=type(source.loss))
    check_images(options, config.augmentation)
    tell = functools.cache(lambda text: say(f"note: {text}"))  # once for both splits

    def batches(split: Split, **how: Any) -> Batches:
        found = Batches(
            Dataset.open(data, split),
            source.batch_size,
            source.image_size,
            workers=options.workers,
            cache="none" if options.cache == "features" else options.cache,
            tell=tell,
            on_bad="skip" if options.skip_bad else "raise",
            **how,
        )
        check_capacity(found, source.max_targets, options.overflow)
        return found

    train_batches = batches(
        "train",
        shuffle=True,
        seed=options.seed,
        augment=config.augmentation,
        drop_last=options.drop_last,
        image_weights=options.image_weights,
    )
    return Plan(
        train=train_batches,
        val=batches("val") if data.val else None,
        schedule=Schedule(
            epochs=options.epochs,
            batches=len(train_batches),
            batch_size=source.batch_size,
            config=config,
            optimizer=source.optimizer or "sgd",
            cosine=options.cos_lr,
            nominal_batch=options.nominal_batch,
        ),
    )


def _export(
    source: ExportSettings, detector: LoadedDetector, folder: RunFolder, options: TrainOptions
) -> TrainSession:
    export_artifacts(source, detector, {options.format: folder.artifacts}, exist_ok=True)
    try:
        return _open_artifacts(folder.artifacts, options)
    except DeviceError:  # leave nothing behind if the run cannot begin
        shutil.rmtree(folder.artifacts)
        raise


def _open_artifacts(artifacts: Path, options: TrainOptions) -> TrainSession:
    session = TrainSession.open(
        artifacts, device=options.device, threads=options.threads, self_check=options.self_check
    )
    manifest, device = session.manifest, Device.parse(options.device)
    for note in engine_notes(manifest.kind, manifest.provider, device, openvino=openvino_version()):
        say(f"note: {note}")
    return session


def _train(
    session: TrainSession,
    plan: Plan,
    folder: RunFolder,
    options: TrainOptions,
    *,
    resume: bool,
    steps: EpochSteps,
) -> TrainResult:
    done = len(read_results(folder.results)) if resume else 0
    try:
        events = EventFile(folder.events, read_results(folder.results)[:done])
        with report(plan.schedule, epochs_done=done) as lines:
            return train(
                session,
                plan.train,
                plan.val,
                plan.schedule,
                folder,
                overflow=options.overflow,
                patience=options.patience,
                max_skipped=options.max_skipped,
                validate_each=not options.noval,
                save_each=not options.nosave,
                save_period=max(options.save_period, 0),
                resume=resume,
                reporter=WithEvents(lines, events),
                steps=steps,
            )
    except KeyboardInterrupt:
        if not options.nosave:
            say(f"continue with: exportloss train --resume {folder.path}", error=True)
        raise
