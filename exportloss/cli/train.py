"""`exportloss train`: train exported artifacts on a data set in YOLO layout."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

from exportloss.cli.arguments import ExportSettings, image_size
from exportloss.cli.export import export_artifacts
from exportloss.cli.outputs import check_run_folder, dataset_files, dataset_folders
from exportloss.cli.progress import report
from exportloss.cli.terminal import say
from exportloss.cli.train_options import add_train_arguments, fill_options, write_options
from exportloss.cli.train_pictures import draw_data, draw_results, has_results
from exportloss.cli.weights import LoadedDetector, load_detector
from exportloss.config import LossConfig
from exportloss.errors import ConfigError, DeviceError, ExportLossError
from exportloss.runtime.dataset import DataConfig, Dataset, Split, read_data_yaml
from exportloss.runtime.devices import Device, check_device, import_engine
from exportloss.runtime.hyp import TrainingConfig, read_hyp, unused_keys
from exportloss.runtime.installation import import_onnxruntime_training
from exportloss.runtime.loader import Batches
from exportloss.runtime.manifest import Manifest
from exportloss.runtime.replacing import recover_folder
from exportloss.runtime.results import best_epoch, read_results
from exportloss.runtime.room import check_batches, check_room, drops_boxes
from exportloss.runtime.run_folder import RunFolder
from exportloss.runtime.schedule import MIN_WARMUP, Schedule
from exportloss.runtime.session import TrainSession
from exportloss.runtime.trainer import RunCompleteError, TrainResult, train

__all__ = ["add_parser", "run"]

_LISTED = 20  # problems with the data
_SAMPLED = 100  # batches, to tell how full mosaics are


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a detector on this device",
        description="Train exported artifacts on a data set in YOLO layout. Needs neither torch "
        "nor onnx when --weights is an artifacts folder.",
        epilog="example: exportloss train --weights artifacts --data data.yaml --epochs 30",
    )
    add_train_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, or resume; print what comes of it."""
    resumed = None if options.resume is None else RunFolder(Path(options.resume))
    options = fill_options(options, resumed)
    if options.data is None or options.weights is None:
        raise ConfigError("train needs --weights and --data (or --resume with a run's folder)")
    data = read_data_yaml(options.data)
    hyp = read_hyp(options.hyp)
    source = _source(options, data, hyp)
    if resumed is None:
        read = [
            Path(name) for name in (options.hyp, options.weights) if name and Path(name).exists()
        ]
        check_run_folder(
            options,
            [*dataset_files(data), *read],
            searched=dataset_folders(data),
            folders=["weights"],
            trees=[] if isinstance(source, Manifest) else ["artifacts"],
        )
    plan = _plan(options, data, hyp, source)
    # Everything that can be refused is refused before a folder is made.
    session = detector = None
    if isinstance(source, Manifest):
        for batches in filter(None, (plan.train, plan.val)):
            check_batches(batches, source, options.overflow)
        session = _open(Path(options.weights), options)
    else:
        device = Device.parse(options.device)
        check_device(import_engine(device), device)
        if options.format == "ort":
            import_onnxruntime_training()
        detector = load_detector(source)
    _print_plan(plan, hyp)
    _print_data(plan, source.max_targets, options)
    folder = resumed or RunFolder.create(options.project, options.name, exist_ok=options.exist_ok)
    try:
        with folder.locked():
            if session is None:
                assert isinstance(source, ExportSettings) and detector is not None
                session = _export(source, detector, folder, options)
            if resumed is None:
                write_options(folder, options, session, plan.schedule, hyp)
            draw_data(folder, plan.train, again=resumed is None)
            try:
                _print_result(_train(session, plan, folder, options, resume=resumed is not None))
            except RunCompleteError:
                if has_results(folder, has_validation=plan.val is not None):
                    raise
            draw_results(folder, options, has_validation=plan.val is not None)
    except ExportLossError:
        with contextlib.suppress(OSError):  # it is not empty where something was done
            folder.path.rmdir()
        raise
    return 0


@dataclasses.dataclass(frozen=True)
class _Plan:
    train: Batches
    val: Batches | None
    schedule: Schedule


def _source(
    options: argparse.Namespace, data: DataConfig, hyp: dict[str, Any]
) -> Manifest | ExportSettings:
    """Return what is in the artifacts folder, or what is to be exported into one."""
    loss = LossConfig.from_mapping(hyp)
    recover_folder(Path(options.weights))
    if not Path(options.weights).is_dir():
        return ExportSettings.from_options(
            options, names=data.names, num_classes=data.num_classes, loss=loss
        )
    manifest = Manifest.read(options.weights)
    for name, held in (
        ("imgsz", manifest.image_size),
        ("batch_size", manifest.batch_size),
        ("max_targets", manifest.max_targets),
        ("optimizer", manifest.optimizer),
        ("precision", manifest.precision),
        ("model", manifest.model),
        ("freeze", "some layers or none"),
    ):
        said = image_size(options.imgsz) if name == "imgsz" else getattr(options, name)
        if said not in (None, held):
            raise ConfigError(
                f"--{name.replace('_', '-')} {said}: the artifacts in {options.weights} were "
                f"exported with {held}, which is fixed; leave it out, or export again"
            )
    scaled = loss.scaled(
        levels=len(manifest.strides),
        num_classes=manifest.num_classes,
        image_size=manifest.image_size,
    )
    for key in hyp.keys() & dataclasses.asdict(loss).keys():
        said, held = getattr(loss, key), getattr(manifest.loss, key)
        if held not in (said, getattr(scaled, key)):
            raise ConfigError(
                f"{options.hyp} has {key} {said}: the artifacts in {options.weights} were exported "
                f"with {held}, which is fixed; change it, or export again with this --hyp"
            )
    return manifest


def _plan(
    options: argparse.Namespace,
    data: DataConfig,
    hyp: dict[str, Any],
    source: Manifest | ExportSettings,
) -> _Plan:
    """Read all labels, and see that the batches will fit."""
    config = TrainingConfig.from_mapping(hyp)

    def batches(split: Split, **how: Any) -> Batches:
        found = Batches(
            Dataset.open(data, split),
            source.batch_size,
            source.image_size,
            workers=options.workers,
            cache=options.cache,
            on_bad="skip" if options.skip_bad else "raise",
            **how,
        )
        check_room(found, source.max_targets, options.overflow)
        return found

    train_batches = batches(
        "train",
        shuffle=True,
        seed=options.seed,
        augment=config.augmentation,
        drop_last=True,
    )
    return _Plan(
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
    source: ExportSettings, detector: LoadedDetector, folder: RunFolder, options: argparse.Namespace
) -> TrainSession:
    export_artifacts(source, detector, {options.format: folder.artifacts}, exist_ok=True)
    try:
        return _open(folder.artifacts, options)
    except DeviceError:  # nothing of the run is left where it cannot begin
        shutil.rmtree(folder.artifacts)
        raise


def _open(artifacts: Path, options: argparse.Namespace) -> TrainSession:
    return TrainSession.open(
        artifacts, device=options.device, threads=options.threads, self_check=options.self_check
    )


def _train(
    session: TrainSession,
    plan: _Plan,
    folder: RunFolder,
    options: argparse.Namespace,
    *,
    resume: bool,
) -> TrainResult:
    done = len(read_results(folder.results)) if resume else 0
    try:
        with report(plan.schedule, epochs_done=done) as reporter:
            return train(
                session,
                plan.train,
                plan.val,
                plan.schedule,
                folder,
                overflow=options.overflow,
                patience=options.patience,
                max_skipped=options.max_skipped,
                resume=resume,
                reporter=reporter,
            )
    except KeyboardInterrupt:
        say(f"continue with: exportloss train --resume {folder.path}", error=True)
        raise


def _print_plan(plan: _Plan, hyp: dict[str, Any]) -> None:
    schedule = plan.schedule
    validation = (
        "no validation split" if plan.val is None else f"{len(plan.val.dataset)} to validate"
    )
    say(
        f"{len(plan.train.dataset)} pictures to train on, {validation}; {schedule.epochs} epochs "
        f"of {schedule.batches} batches of {schedule.batch_size}, an update every "
        f"{min(schedule.accumulate, schedule.batches)} batches"
    )
    if schedule.warmup_covers_run:
        say(
            f"warning: warm-up takes {schedule.warmup_batches} batches (as in YOLOv5, "
            f"{MIN_WARMUP} at least) and the run has {schedule.epochs * schedule.batches}: it "
            "never trains at its full rate; train for more epochs"
        )
    if unused := unused_keys(hyp):
        say(f"note: augmentations that this version does not do: {', '.join(unused)}")


def _print_data(plan: _Plan, max_targets: int, options: argparse.Namespace) -> None:
    for batches in filter(None, (plan.train, plan.val)):
        if batches.left_out:
            listed = "\n  ".join(batches.left_out[:_LISTED])
            more = f"\n  and {len(batches.left_out) - _LISTED} more"
            say(
                f"warning: bad pictures left out: {batches.skipped}\n  {listed}"
                + (more if len(batches.left_out) > _LISTED else "")
            )
    if plan.train.most_pictures > 1 and drops_boxes(plan.train, options.overflow):
        counts = plan.train.target_counts(0, batches=_SAMPLED)
        lost = sum(max(count - max_targets, 0) for count in counts) / max(sum(counts), 1)
        say(
            f"mosaics make batches of {min(counts)} to {max(counts)} boxes, {max_targets} fit: "
            + (
                f"{lost:.1%} are left out, the smallest; export with --max-targets {max(counts)} "
                "to keep about all"
                if lost
                else "none is left out"
            )
        )


def _print_result(result: TrainResult) -> None:
    folder = result.folder
    best = result.best
    worth = f"loss {best.loss:.4f}"
    if best.scores is not None:
        worth = f"mAP50 {best.scores.map50:.3f}, mAP50-95 {best.scores.map50_95:.3f}, {worth}"
    if result.stopped_early:
        waited = result.epochs[-1].epoch - best.epoch
        say(f"stopped early, {waited} epochs after the best (--patience)")
    if best.is_start:
        say(f"best: the start, {worth}; {result.updates} updates")
        say(_no_better(result))
    else:
        say(f"best: epoch {best.epoch}, {worth}; {result.updates} updates")
    for path in (folder.results, folder.last, folder.best, folder.best_onnx):
        say(f"  {path}")


def _no_better(result: TrainResult) -> str:
    """Say how near the epochs came to the start that none of them beat."""
    runner_up = best_epoch(result.epochs)
    scores = runner_up.scores
    reached = (
        "" if scores is None else f" (mAP50 {scores.map50:.3f}, mAP50-95 {scores.map50_95:.3f})"
    )
    return (
        f"warning: no epoch made the detector better; the nearest was epoch {runner_up.epoch}"
        f"{reached}. {result.folder.best_onnx.name} is the detector that you started from: train "
        "for more epochs, with a lower lr0, weaker augmentation or more data"
    )
