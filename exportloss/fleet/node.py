"""A device of a fleet: its own settings, and what it does when it is asked."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.fleet.local_state import LocalState
from exportloss.fleet.messages import Result, Task, Vectors
from exportloss.fleet.settings import take_fields
from exportloss.runtime.artifact.weights import Weights, WeightsLayout
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.capacity import check_batches
from exportloss.runtime.data.data_yaml import DataConfig
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batch, Batches
from exportloss.runtime.evaluation.validate import validate
from exportloss.runtime.federated.differences import take_difference
from exportloss.runtime.federated.train_round import train_round
from exportloss.runtime.sessions.registry import open_session
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.training.hyp import TrainingConfig, read_hyp

__all__ = ["Node", "NodeConfig", "evaluate"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """Settings that only the device itself has; no server can change them.

    Attributes:
        name: Name of the device, unique in the fleet: results are summed in the order of names.
        artifacts: Artifacts folder.
        data: `data.yaml` of the device's images.
        state: Folder for what the device keeps, and for `detector.onnx`; made if it is missing.
        hyp: YOLOv5 hyperparameter file, for its augmentations; "" flips images from left to right.
        processor: Where to train, as `TrainSession.open` takes it.
        threads: Threads of the engine, >= 1.

    Raises:
        ConfigError: a value is of another type or missing.
    """

    name: str = ""
    artifacts: str = ""
    data: str = ""
    state: str = ""
    hyp: str = ""
    processor: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not type(field.default):
                raise ConfigError(f"{field.name} of the node is {excerpt(repr(value))}")
        needed = ("name", "artifacts", "data", "state")
        if missing := [name for name in needed if not getattr(self, name)]:
            raise ConfigError(
                f"the node's own config lacks {', '.join(missing)}; start the SuperNode with "
                '--node-config \'name="camera-1" artifacts="FOLDER" data="data.yaml" '
                'state="FOLDER"\''
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> NodeConfig:
        """Take the settings from a mapping; other keys are ignored."""
        config: NodeConfig = take_fields(cls, values)
        return config


class Node:
    """A device with its session open.

    Args:
        config: Settings of the device.

    Raises:
        ExportLossError: artifacts or data cannot be opened; see `open_session` and `Batches`.
    """

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self._state = Path(config.state)
        self._session = open_session(
            config.artifacts, device=config.processor, threads=config.threads
        )
        self._data = read_data_yaml(Path(config.data))
        self._start = self._session.state()  # the artifacts' own

    def handle(self, task: Task) -> Result:
        """Do what the server asks.

        Raises:
            ArtifactError: the global weights are of another model or not finite, are a difference
                to weights of other artifacts, or what the device keeps is damaged.
            ConfigError: the task contradicts the artifacts.
            DataError: an image cannot be decoded.
            TrainingError: every step was skipped.
        """
        session = self._session
        layout = session.weights_layout(share=task.share)
        weights = task.vectors.check(layout, base=self._base(task, layout))
        try:
            self._state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"state of the node: {error}") from error
        kept = LocalState.before(self._state, task.run, task.round)
        # Whatever ran before in this process: a task gives the same result in a new one.
        unknown = kept.model.keys() - self._start.model.keys()
        if unknown or any(kept.model[n].shape != self._start.model[n].shape for n in kept.model):
            raise ArtifactError(f"{self._state} is of other artifacts; remove it to start afresh")
        model = {**self._start.model, **kept.model}
        session.load_state(dataclasses.replace(self._start, model=model))
        session.set_weights(weights)
        return self._train(task, weights, kept) if task.action == "train" else self._finish(task)

    def _base(self, task: Task, layout: WeightsLayout) -> Weights | None:
        if not task.start:
            return None
        start = Weights.of(layout, self._start.model)
        if start.sha256 != task.start:
            raise ArtifactError(
                f"the server's artifacts start from other weights ({excerpt(task.start, 12)}) than "
                f"this device's ({start.sha256[:12]}); copy one export to the server and every "
                "device, or send float32"
            )
        return start

    def _train(self, task: Task, weights: Weights, kept: LocalState) -> Result:
        session = self._session
        batches = _batches(session, self._data, "train", self._augmentation(), task.seed)
        result = train_round(
            session,
            _epochs(batches, (task.round - 1) * task.local_epochs, task.local_epochs),
            lr=task.lr,
            momentum=task.momentum,
            weight_decay=task.weight_decay,
            proximal=task.proximal,
        )
        trained = session.weights(share=task.share)
        vectors, residual = Vectors.of(trained), None
        if task.half:
            sent, residual = take_difference(trained.parameters, weights.parameters, kept.residual)
            vectors = dataclasses.replace(vectors, parameters=sent)
        shared = set(trained.layout.names)
        own = {n: t for n, t in session.weights().tensors.items() if n not in shared}
        if own or residual is not None:
            LocalState(model=own, residual=residual).write(self._state, task.run, task.round)
        metrics = dict(result.items) | {"skipped": float(result.skipped)}
        return Result(name=self.config.name, images=result.images, metrics=metrics, vectors=vectors)

    def _finish(self, task: Task) -> Result:
        session, metrics = self._session, {}
        if task.calibrate and session.manifest.statistics:
            images = _batches(session, self._data, "train", None, task.seed)
            with contextlib.closing(images.epoch(0)) as stream:
                metrics["calibration batches"] = float(session.calibrate(stream))
        if self._data.val:
            scores = evaluate(session, self._data)
            metrics |= scores
        session.export_inference(self._state / "detector.onnx")
        return Result(name=self.config.name, images=0, metrics=metrics)

    def _augmentation(self) -> Augmentation:
        if not self.config.hyp:
            return Augmentation(fliplr=0.5)
        loss = type(self._session.manifest.loss)
        hyp = read_hyp(self.config.hyp, loss=loss)
        return TrainingConfig.from_mapping(hyp, loss=loss).augmentation


def evaluate(session: TrainSession, data: DataConfig) -> dict[str, float]:
    """Return `map50` and `map` on the validation split of a data set.

    Raises:
        DataError: an image cannot be decoded.
        ConfigError: the data set has other classes than the artifacts.
    """
    batches = _batches(session, data, "val", None, 0)
    with contextlib.closing(batches.epoch(0)) as stream:
        metrics = validate(
            lambda batch: session.evaluate(batch.images, batch.targets),
            stream,
            num_classes=session.manifest.num_classes,
        ).metrics
    return {"map50": metrics.map50, "map": metrics.map50_95}


def _batches(
    session: TrainSession, data: DataConfig, split: Any, augment: Augmentation | None, seed: int
) -> Batches:
    manifest = session.manifest
    batches = Batches(
        Dataset.open(data, split),
        manifest.batch_size,
        manifest.image_size,
        shuffle=split == "train",
        seed=seed,
        augment=augment,
        workers=1,
    )
    check_batches(batches, manifest)
    return batches


def _epochs(batches: Batches, first: int, count: int) -> Iterator[Batch]:
    for epoch in range(first, first + count):
        with contextlib.closing(batches.epoch(epoch)) as stream:
            yield from stream
