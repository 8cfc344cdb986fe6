"""Compare YOLOv5's graphs with those of an earlier revision, bit by bit.

    python scripts/same_graphs.py REVISION

Exports the loss for each provider and a training step of YOLOv5n with both, and prints which graphs
differ in anything but their metadata, which have versions.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_EXPORT = """
import sys
from pathlib import Path

import torch

from exportloss import YoloLoss
from exportloss.export import export_loss, export_train_step
from exportloss.models import yolov5

folder = Path(sys.argv[1])
torch.manual_seed(0)
model = yolov5("yolov5n", 3)
loss = YoloLoss(model.anchors_px, model.strides, 3)
sizes = {"image_size": (64, 64), "batch_size": 2, "max_targets": 32}
for provider in ("any", "cpu", "gpu"):
    export_loss(loss, folder / provider, gradients=True, tiers=(), provider=provider, **sizes)
export_train_step(model, loss, folder / "step", optimizer="sgd", ema=True, **sizes)
"""


def export(root: Path, folder: Path) -> dict[str, str]:
    """Export with the sources in a folder; return a digest by the path of each graph."""
    import onnx

    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-c", _EXPORT, str(folder)], cwd=root, env=environment, check=True
    )
    found = {}
    for path in sorted(folder.rglob("*.onnx")):
        graph = onnx.load(path, load_external_data=False)
        for holder in (graph, *graph.graph.node):
            del holder.metadata_props[:]
        content = graph.SerializeToString(deterministic=True)
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def main() -> int:
    """Compare; return 1 if a graph differs or is gone."""
    (revision,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = subprocess.check_output(["git", "archive", revision], cwd=_ROOT)
        with tarfile.open(fileobj=io.BytesIO(archive)) as sources:
            sources.extractall(folder / "sources", filter="tar")
        before = export(folder / "sources", folder / "before")
        now = export(_ROOT, folder / "now")
    for path in sorted(before.keys() | now.keys()):
        same = "the same" if before.get(path) == now.get(path) else "differs"
        print(f"{path}: {same if path in before and path in now else 'on one side only'}")
    return int(any(now.get(path) != digest for path, digest in before.items()))


if __name__ == "__main__":
    sys.exit(main())
