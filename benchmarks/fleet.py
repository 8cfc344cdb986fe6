"""Compare ways to train four devices whose data may not leave them: `make fleet`.

    python benchmarks/fleet.py [--output FOLDER] [--rounds N] [--local-epochs N] [--more]

YOLOv5n at 128 px. A "factory" detector is trained on neutral images; then each device alone, the
fleet in several ways, and one training with all images in one place, each for as many epochs. The
devices run in this process, one after the other, through the code that Flower's apps run. Writes
`fleet.md`, `fleet.json` and `fleet.png`; what FOLDER has of the factory's detector is used again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from fleet_data import DEVICES, draw
from torch import nn

from exportloss import YoloLoss
from exportloss.demo.dataset import SHAPE_NAMES
from exportloss.export import export_train_step
from exportloss.fleet.in_process import InProcess
from exportloss.fleet.node import Node, NodeConfig, evaluate
from exportloss.fleet.record import RunRecord
from exportloss.fleet.server import run_fleet
from exportloss.fleet.settings import FleetSettings
from exportloss.models import freeze, yolov5
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.manifest import MANIFEST_NAME
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.federated.train_round import train_round
from exportloss.runtime.training.run_folder import RunFolder

SIZE, BATCH = 128, 4
LR, LRF = 0.02, 0.05


@dataclasses.dataclass(frozen=True)
class Row:
    """A way to train, and what came of it."""

    name: str
    union: float | None
    own: float
    up: int = 0
    down: int = 0
    seconds: float = 0.0


class Comparison:
    """The trainings, with the paths that they share."""

    def __init__(self, root: Path, *, rounds: int, local_epochs: int, threads: int) -> None:
        self.root, self.threads = root, threads
        self.rounds, self.local_epochs = rounds, local_epochs
        self.rows: list[Row] = []
        self.curves: dict[str, list[float]] = {}

    def data(self, name: str) -> Path:
        """Return the `data.yaml` of a device, the factory or all devices."""
        return self.root / "data" / name / "data.yaml"

    def open(self, name: str = "full") -> TrainSession:
        """Open an export."""
        return TrainSession.open(self.root / name, threads=self.threads)

    def train(self, session: TrainSession, name: str, epochs: int) -> None:
        """Train in one place, as many epochs as the fleet."""
        data = Dataset.open(read_data_yaml(self.data(name)), "train")
        size = session.manifest.image_size
        flips = Augmentation(fliplr=0.5)
        batches = Batches(data, BATCH, size, shuffle=True, augment=flips, cache="ram")
        schedule = FleetSettings(rounds=epochs, lr=LR, lrf=LRF)
        for epoch in range(epochs):
            train_round(session, batches.epoch(epoch), lr=schedule.rate(epoch + 1))

    def score(self, session: TrainSession, name: str) -> float:
        """Return mAP50 on the validation images of a data set."""
        return evaluate(session, read_data_yaml(self.data(name)))["map50"]

    def own(self, session: TrainSession) -> float:
        """Return the mean over devices of mAP50 on their own images."""
        return float(np.mean([self.score(session, f"device{n}") for n in range(DEVICES)]))

    def calibrated(self, session: TrainSession) -> float:
        """Mean mAP50 of the devices with statistics of their own."""
        weights, scores = session.weights(), []
        for device in range(DEVICES):
            session.set_weights(weights)
            data = Dataset.open(read_data_yaml(self.data(f"device{device}")), "train")
            session.calibrate(Batches(data, BATCH, session.manifest.image_size).epoch(0))
            scores.append(self.score(session, f"device{device}"))
        session.set_weights(weights)
        return float(np.mean(scores))

    def add(self, row: Row) -> None:
        """Add and print a row."""
        self.rows.append(row)
        write(self)
        union = "     " if row.union is None else f"{row.union:.3f}"
        print(f"{row.name:50} {union}  {row.own:.3f}  {row.seconds:4.0f} s", flush=True)

    def fleet(self, name: str, artifacts: str = "full", **options: object) -> tuple[Row, RunRecord]:
        """Train the fleet with some settings."""
        started = time.monotonic()
        place = self.root / "runs" / name.replace(" ", "-")
        nodes = [
            Node(
                NodeConfig(
                    name=f"device{n}",
                    artifacts=str(self.root / artifacts),
                    data=str(self.data(f"device{n}")),
                    state=str(place / f"device{n}"),
                    threads=self.threads,
                )
            )
            for n in range(DEVICES)
        ]
        defaults = {"calibrate": False, "quorum": DEVICES, "lr": LR, "lrf": LRF}
        values = {"rounds": self.rounds, "local_epochs": self.local_epochs} | defaults | options
        record = run_fleet(
            InProcess([node.handle for node in nodes]),
            FleetSettings.of(values),
            session=TrainSession.open(
                self.root / artifacts, threads=self.threads, evaluation_only=True
            ),
            data=read_data_yaml(self.data("union")),
            folder=RunFolder.create(place, "server", exist_ok=True),
        )
        last, found = record.rounds[-1], record.finished.values()
        own = float(np.mean([one["map50"] for one in found if isinstance(one, Mapping)]))
        self.curves[name] = [record.start or 0.0, *(one.map50 or 0.0 for one in record.rounds)]
        seconds = time.monotonic() - started
        row = Row(name, record.best_map50, own, last.bytes_up, last.bytes_down, seconds)
        return row, record

    def best(self, name: str, artifacts: str = "full") -> TrainSession:
        """Open the best weights of a run of the fleet."""
        place = self.root / "runs" / name.replace(" ", "-") / "server"
        return self.open(artifacts).resume(RunFolder(place).best)


def export(folder: Path, weights: Mapping[str, np.ndarray] | None, layers: int) -> None:
    """Export YOLOv5n with given weights, and some layers frozen."""
    torch.manual_seed(0)
    model = yolov5("yolov5n", len(SHAPE_NAMES))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.03
    if weights is not None:
        tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in weights.items()}
        model.load_state_dict(model.state_dict() | tensors)
    if layers:
        freeze(model, layers)
    loss = YoloLoss(model.anchors_px, model.strides, model.num_classes)
    export_train_step(
        model,
        loss,
        folder,
        image_size=(SIZE, SIZE),
        batch_size=BATCH,
        max_targets=6 * BATCH,
        names=SHAPE_NAMES,
        exist_ok=True,
    )


def compare(comparison: Comparison, *, factory_epochs: int) -> None:
    """Train in every way."""
    root = comparison.root
    draw(root / "data", size=SIZE, train=64, val=24, factory=128)
    if not (root / "frozen" / MANIFEST_NAME).exists():  # written last
        export(root / "untrained", None, 0)
        session = comparison.open("untrained")
        comparison.train(session, "factory", factory_epochs)
        weights = session.state().model
        export(root / "full", weights, 0)
        export(root / "frozen", weights, 10)
    session = comparison.open()
    comparison.add(
        Row("factory, no training", comparison.score(session, "union"), comparison.own(session))
    )
    epochs = comparison.rounds * comparison.local_epochs
    started, alone = time.monotonic(), []
    for device in range(DEVICES):
        session = comparison.open()
        comparison.train(session, f"device{device}", epochs)
        scores = comparison.score(session, "union"), comparison.score(session, f"device{device}")
        alone.append(scores)
    union, own = np.mean(alone, axis=0).tolist()
    comparison.add(Row("each alone", union, own, seconds=time.monotonic() - started))

    started = time.monotonic()
    session = comparison.open()
    comparison.train(session, "union", epochs)
    seconds = time.monotonic() - started
    union, own = comparison.score(session, "union"), comparison.own(session)
    comparison.add(Row("central, all images in one place", union, own, seconds=seconds))

    row, _ = comparison.fleet("FedAvg", pooled_variances=False)
    comparison.add(row)
    row, _ = comparison.fleet("FedAvg, pooled variances")
    comparison.add(row)
    own = comparison.calibrated(comparison.best("FedAvg, pooled variances"))
    comparison.add(dataclasses.replace(row, name="the same, calibrated", own=own))
    for half in (False, True):
        name = "frozen, float16 differences" if half else "frozen"
        row, _ = comparison.fleet(name, "frozen", half=half)
        comparison.add(dataclasses.replace(row, name=name.replace("frozen", "--freeze 10, pooled")))
        own = comparison.calibrated(comparison.best(name, "frozen"))
        comparison.add(dataclasses.replace(row, name="the same, calibrated", own=own))


def compare_more(comparison: Comparison) -> None:
    """Train in the ways that the first table lacks."""
    row, _ = comparison.fleet("float16 differences", half=True)
    own = comparison.calibrated(comparison.best(row.name))
    shown = "pooled, calibrated, float16 differences"
    comparison.add(dataclasses.replace(row, name=shown, own=own))
    row, _ = comparison.fleet("FedBN", share="without-norms", calibrate=True)
    comparison.add(dataclasses.replace(row, name="FedBN, calibrated", union=None))
    del comparison.curves["FedBN"]  # of the factory's norms, as the server has no others
    row, _ = comparison.fleet("FedProx 0.01", proximal=0.01)
    own = comparison.calibrated(comparison.best(row.name))
    comparison.add(dataclasses.replace(row, name="FedProx 0.01, pooled, calibrated", own=own))


def write(comparison: Comparison) -> None:
    """Write the table, as Markdown and JSON, and the curves."""
    lines = [
        "| training | mAP50, all devices' images | mAP50, own images (mean) | MB up | MB down |",
        "|---|---|---|---|---|",
    ]
    for row in comparison.rows:
        union = "-" if row.union is None else f"{row.union:.3f}"
        sent = [f"{count / 1e6:.2f}" if count else "-" for count in (row.up, row.down)]
        lines.append(f"| {row.name} | {union} | {row.own:.3f} | {' | '.join(sent)} |")
    text = "\n".join(lines) + "\n"
    root = comparison.root
    (root / "fleet.md").write_text(text, encoding="utf-8")
    values = {
        "rows": [dataclasses.asdict(row) for row in comparison.rows],
        "curves": comparison.curves,
        "load": os.getloadavg(),
    }
    (root / "fleet.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def plot(comparison: Comparison, path: Path) -> None:
    """Draw mAP50 on all devices' images by round, and that of one training in one place."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, curve in comparison.curves.items():
        axes.plot(range(len(curve)), curve, marker="o", markersize=3, label=name)
    for row in comparison.rows:
        if row.name.startswith("central") and row.union is not None:
            axes.axhline(row.union, color="grey", linestyle="--", label="central, at its end")
    axes.set_xticks(range(1 + comparison.rounds))
    axes.set_xlabel("round")
    axes.set_ylabel("mAP50 on all devices' images")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/fleet"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--local-epochs", type=int, default=1)
    parser.add_argument("--factory-epochs", type=int, default=16)
    parser.add_argument("--more", action="store_true", help="also FedBN, FedProx and float16")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    comparison = Comparison(
        options.output,
        rounds=options.rounds,
        local_epochs=options.local_epochs,
        threads=options.threads,
    )
    compare(comparison, factory_epochs=options.factory_epochs)
    if options.more:
        compare_more(comparison)
    plot(comparison, options.output / "fleet.png")
    print(f"\n{(options.output / 'fleet.md').read_text(encoding='utf-8')}")
    print(f"{time.monotonic() - started:.0f} s, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
