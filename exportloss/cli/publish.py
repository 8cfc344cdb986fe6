"""`exportloss publish`: a detector for inference servers, if better than the one that serves."""

from __future__ import annotations

import argparse
from pathlib import Path

from exportloss.cli.detection.judging import judge_detector, validation_batches
from exportloss.cli.run_paths import graph_file, run_at
from exportloss.cli.terminal import say
from exportloss.errors import ConfigError
from exportloss.runtime.data.dataset import DataConfig, read_data_yaml
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.evaluation.scores import Scores
from exportloss.runtime.serving.publication import Published, check_model, publish, read_record
from exportloss.runtime.serving.repository import ModelRepository
from exportloss.runtime.training.origin import data_digest

__all__ = ["add_parser", "run"]

_NOT_BETTER = 1  # exit status


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "publish",
        help="put a detector into a model repository, for inference servers",
        description="Write a detector as the next version of a model in a repository for Triton, "
        "KServe and OpenVINO Model Server, unless the version that serves is as good on --data. "
        "The version appears complete, in one step. Exit status 1: it was not better.",
        epilog="example: exportloss publish runs/train/exp --repository models --name parts "
        "--data data.yaml",
    )
    parser.add_argument(
        "detector",
        nargs="?",
        metavar="RUN|FILE",
        help="a run, for its weights/best.onnx, or a detector's .onnx file",
    )
    parser.add_argument(
        "--repository", required=True, metavar="FOLDER", help="model repository; made if missing"
    )
    parser.add_argument(
        "--name",
        required=True,
        metavar="NAME",
        help="name of the model: lower-case letters, digits and hyphens",
    )
    parser.add_argument(
        "--data", metavar="YAML", help="data set on whose validation split both are compared"
    )
    parser.add_argument(
        "--even-if-worse", action="store_true", help="publish whatever the comparison says"
    )
    parser.add_argument(
        "--rollback",
        action="store_true",
        help="instead, let the version before the last one serve again",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Publish or roll back; print which version serves."""
    repository = ModelRepository(Path(options.repository), options.name)
    if options.rollback:
        return _roll_back(repository, options)
    if options.detector is None or options.data is None:
        raise ConfigError("publish needs a run or file, and --data to judge it on (or --rollback)")
    config = read_data_yaml(options.data)
    given = Path(options.detector)
    file, owner = graph_file(given), run_at(given)
    first = Detector.open(file)
    published = publish(
        repository,
        file,
        lambda content, path: _judge(content, path, config),
        data=data_digest(validation_batches(first, config)),
        run=None if owner is None else owner.path,
        weights=None if owner is None else owner.best,
        even_if_worse=options.even_if_worse,
    )
    return _report(published, repository)


def _judge(content: bytes, path: Path, config: DataConfig) -> Scores:
    detector = Detector.from_content(
        content, str(path), device="cpu", threads=None, self_check=False
    )
    if detector.names and len(detector.names) != config.num_classes:
        raise ConfigError(
            f"{path} has {len(detector.names)} classes, the data set {config.num_classes}; judge "
            "it on the data set that it was trained on"
        )
    scores = judge_detector(detector, config)
    say(f"{scores.summary()}  {path}")
    return scores


def _report(published: Published, repository: ModelRepository) -> int:
    version = repository.version(published.version)
    if published.is_new:
        say(f"serves now: {version}")
        return 0
    say(
        f"not published: it is not better than {version}, which goes on serving; --even-if-worse "
        "publishes it all the same"
    )
    return _NOT_BETTER


def _roll_back(repository: ModelRepository, options: argparse.Namespace) -> int:
    if options.detector is not None or options.data is not None or options.even_if_worse:
        raise ConfigError("publish --rollback takes --repository and --name alone")
    repository.check()
    if not repository.model.is_dir():
        raise ConfigError(f"{repository.path} has no model {repository.name!r}", argument="name")
    with repository.locked():
        versions = repository.versions()[-2:]
        records = [read_record(repository.version(number)) for number in versions]  # ours
        if len(versions) == 2:
            check_model(repository.version(versions[0]), records[0])
        number = repository.withdraw()
    record = records[0]
    say(
        f"serves now: {repository.version(number)} (mAP50-95 {record.map50_95:.3f} when it was "
        "published)"
    )
    return 0
