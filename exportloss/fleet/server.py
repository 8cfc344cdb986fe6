"""The server's part of a federated run: rounds, averages, the run folder."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from exportloss.errors import ConfigError, ExportLossError, TrainingError, listed
from exportloss.fleet.messages import Answer, Result, Task, Vectors
from exportloss.fleet.node import evaluate
from exportloss.fleet.record import RoundRecord, RunRecord
from exportloss.fleet.settings import FleetSettings
from exportloss.runtime.artifact.weights import Weights
from exportloss.runtime.data.data_yaml import DataConfig
from exportloss.runtime.federated.average import average
from exportloss.runtime.federated.differences import take_difference
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.training.run_folder import RunFolder

__all__ = ["RECORD_NAME", "Network", "run_fleet"]

RECORD_NAME = "fleet.json"
_PAUSE = 0.5  # seconds between looks for devices
_LOSS = "box"  # a term of every loss
_MOST_IMAGES = 1e9  # that a device may claim to have trained on


class Network(Protocol):
    """The devices as a server sees them."""

    def nodes(self) -> Sequence[int]:
        """Return the numbers of the devices that are there."""

    def ask(self, task: Task, nodes: Sequence[int], seconds: float) -> Iterable[Answer]:
        """Ask devices and return what they answered in time, in any order."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Accepted:
    name: str
    node: int
    result: Result
    weights: Weights


def run_fleet(
    network: Network,
    settings: FleetSettings,
    *,
    session: TrainSession,
    data: DataConfig | None,
    folder: RunFolder,
    weights: str | Path | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> RunRecord:
    """Run the rounds of a federated training, or those that an interrupted run has left.

    After every round the average is validated and `weights/last.safetensors`,
    `weights/best.safetensors`, `weights/best.onnx` and `fleet.json` are written. A run that was
    killed goes on after its last complete round, to the same bits if the same devices answer. At
    the end the devices get the best weights, calibrate, and keep a detector each.

    Args:
        network: The devices.
        settings: Settings of the run.
        session: Session that evaluates, such as one of `evaluation_only=True`, with the weights of
            its artifacts: with `half`, devices get the difference to these.
        data: Data set whose validation split decides on the best round; None for the last round.
        folder: Folder to write to.
        weights: State to start from, as for `TrainSession.start_from`; None for the artifacts'.
        say: Receiver of a line per event.

    Raises:
        TrainingError: fewer devices than the quorum are there, or answered a round in time with
            results that can be used; the message names each device and reason. The rounds before
            are kept, and the run can be resumed.
        ConfigError: the run is complete, or its settings differ.
        ArtifactError: a file of the run is damaged or cannot be written.
    """
    with folder.locked():
        folder.subfolder("weights")
        run = _Run(
            network=network,
            settings=settings,
            session=session,
            data=data,
            folder=folder,
            say=say,
        )
        run.start(weights)
        for number in range(len(run.record.rounds) + 1, settings.rounds + 1):
            run.round(number)
        run.finish()
        return run.record


@dataclasses.dataclass(kw_only=True)
class _Run:
    network: Network
    settings: FleetSettings
    session: TrainSession
    data: DataConfig | None
    folder: RunFolder
    say: Callable[[str], object]

    def __post_init__(self) -> None:
        self._layout = self.session.weights_layout(share=self.settings.share)
        self._start = self.session.weights(share=self.settings.share)
        self._path = self.folder.path / RECORD_NAME
        self.record: RunRecord

    def start(self, weights: str | Path | None) -> None:
        found = RunRecord.read(self._path)
        if found is None:
            if weights is not None:
                self.session.start_from(weights)
            scores = self._evaluate()
            self.record = RunRecord.new(self.settings, scores.get("map50"))
            self._keep(0, is_best=True)
            self.record.write(self._path)
            return
        if found.finished:
            raise ConfigError(f"{self.folder.path} holds a complete run; choose another output")
        self.record = found.resumed(self.settings)
        self.session.resume(self._state_after(len(found.rounds)))
        self.say(f"resumed after round {len(found.rounds)}")

    def round(self, number: int) -> None:
        started = time.monotonic()
        base = self.session.weights(share=self.settings.share)
        down = self._down(base)
        answers = self._ask("train", number, down)
        accepted, refused = self._check(answers, base)
        for node, reason in refused.items():
            self.say(f"round {number}: {node}: {reason}")
        if len(accepted) < self.settings.quorum:
            raise TrainingError(
                f"round {number} has {len(accepted)} results, and the quorum is "
                f"{self.settings.quorum}; {_reasons(refused)}. Start the same run again to go on "
                f"after round {number - 1}"
            )
        images = [one.result.images for one in accepted]
        self.session.set_weights(
            average(
                [one.weights for one in accepted],
                images,
                pooled_variances=self.settings.pooled_variances,
            )
        )
        scores = self._evaluate()
        losses = [one.result.metrics[_LOSS] for one in accepted]
        map50, best = scores.get("map50"), self.record.best_map50
        is_best = map50 is None or best is None or map50 > best
        done = RoundRecord(
            round=number,
            devices=tuple(one.name for one in accepted),
            refused=refused,
            images=sum(images),
            loss=float(np.average(losses, weights=images)),
            map50=map50,
            map=scores.get("map"),
            sha256=self.session.weights(share=self.settings.share).sha256,
            bytes_down=down.nbytes,
            bytes_up=round(np.mean([_bytes(one.result) for one in accepted])),
            seconds=time.monotonic() - started,
        )
        self._keep(number, is_best=is_best)
        self.record = dataclasses.replace(
            self.record,
            rounds=(*self.record.rounds, done),
            best=number if is_best else self.record.best,
        )
        self.record.write(self._path)
        self._state_after(number - 1).unlink(missing_ok=True)
        score = "" if map50 is None else f", mAP50 {map50:.3f}"
        self.say(f"round {number} of {self.settings.rounds}: {len(accepted)} devices{score}")

    def finish(self) -> None:
        self.session.resume(self.folder.best)
        best = self.session.weights(share=self.settings.share)
        finished: dict[str, Mapping[str, float] | str] = {}
        for answer in self._ask("finish", self.settings.rounds + 1, Vectors.of(best)):
            result = answer.result
            if isinstance(result, str):
                finished[str(answer.node)] = result
            else:
                finished[result.name] = dict(result.metrics)
        self.record = dataclasses.replace(self.record, finished=dict(sorted(finished.items())))
        self.record.write(self._path)

    def _down(self, base: Weights) -> Vectors:
        """Return what devices train from in a round.

        A difference is to the weights in the artifacts, which every device has, even one that
        missed rounds. What rounding loses of it is lost for a round only: devices answer with the
        difference to what they got, which is added to `base`.
        """
        vectors = Vectors.of(base)
        if not self.settings.half:
            return vectors
        difference, _ = take_difference(base.parameters, self._start.parameters)
        return dataclasses.replace(vectors, parameters=difference)

    def _ask(
        self, action: Literal["train", "finish"], number: int, vectors: Vectors
    ) -> list[Answer]:
        settings = self.settings
        nodes = self._wait(number)
        task = Task(
            action=action,
            run=self.record.run,
            round=number,
            share=settings.share,
            local_epochs=settings.local_epochs,
            lr=settings.rate(min(number, settings.rounds)),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            proximal=settings.proximal,
            half=settings.half,
            calibrate=settings.calibrate,
            seed=settings.seed,
            start=self._start.sha256 if vectors.is_difference else "",
            vectors=vectors,
        )
        answers = list(self.network.ask(task, nodes, settings.round_seconds))
        silent = set(nodes) - {answer.node for answer in answers}
        late = f"no answer within {settings.round_seconds:g} s"
        return answers + [Answer(node=node, result=late) for node in silent]

    def _wait(self, number: int) -> Sequence[int]:
        quorum, until = self.settings.quorum, time.monotonic() + self.settings.join_seconds
        while len(nodes := sorted(self.network.nodes())) < quorum:
            if time.monotonic() >= until:
                raise TrainingError(
                    f"{len(nodes)} devices are there before round {number}, and the quorum is "
                    f"{quorum}; waited {self.settings.join_seconds:g} s. Start more devices, or "
                    "lower the quorum, and start the same run again"
                )
            time.sleep(_PAUSE)
        return nodes

    def _check(
        self, answers: Sequence[Answer], base: Weights
    ) -> tuple[list[_Accepted], dict[str, str]]:
        """Return the results to average, in the order of names, and why others are refused."""
        accepted: list[_Accepted] = []
        refused: dict[str, str] = {}
        names: set[str] = set()
        for answer in sorted(answers, key=_order):
            try:
                one = self._accept(answer, base)
                if one.name in names:
                    raise ConfigError(f"another device has the name {one.name!r} too")
                names.add(one.name)
                accepted.append(one)
            except ExportLossError as error:
                name = "" if isinstance(answer.result, str) else f" ({answer.result.name})"
                refused[f"node {answer.node}{name}"] = str(error)
        return accepted, refused

    def _accept(self, answer: Answer, base: Weights) -> _Accepted:
        result = answer.result
        if isinstance(result, str):
            raise TrainingError(result)
        if result.vectors is None or not 1 <= result.images <= _MOST_IMAGES:
            raise TrainingError(f"trained on {result.images} images; expected 1 or more")
        if bad := [name for name, value in result.metrics.items() if not math.isfinite(value)]:
            raise TrainingError(f"{bad[0]} is not finite")
        if _LOSS not in result.metrics:
            raise TrainingError(f"the metrics lack {_LOSS!r}, the loss of the boxes")
        half = base if self.settings.half else None
        weights = result.vectors.check(self._layout, base=half)
        return _Accepted(name=result.name, node=answer.node, result=result, weights=weights)

    def _evaluate(self) -> dict[str, float]:
        return {} if self.data is None else evaluate(self.session, self.data)

    def _keep(self, number: int, *, is_best: bool) -> None:
        """Write the state after a round; the record, written later, makes it count."""
        self.session.save(self._state_after(number))
        self.session.save(self.folder.last)
        if is_best:
            self.session.save(self.folder.best)
            self.session.export_inference(self.folder.best_onnx)

    def _state_after(self, number: int) -> Path:
        return self.folder.path / "weights" / f"round{number}.safetensors"


def _order(answer: Answer) -> tuple[str, int]:
    return ("" if isinstance(answer.result, str) else answer.result.name, answer.node)


def _bytes(result: Result) -> int:
    return 0 if result.vectors is None else result.vectors.nbytes


def _reasons(refused: Mapping[str, str]) -> str:
    if not refused:
        return "no other device was asked"
    return listed([f"{node}: {reason}" for node, reason in refused.items()], 4, "; ")
