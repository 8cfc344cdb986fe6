"""A training service by Ray Serve: one replica holds a session, and clients send it batches.

    RAY_USAGE_STATS_ENABLED=0 python examples/ray_service.py ARTIFACTS STATE

POST /step takes an .npz of `images`, (B, 3, H, W) uint8, and `targets`, (n, 6), and trains; POST
/save writes STATE, from which the next start goes on; GET /detector returns the ONNX file.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exportloss import ExportLossError
from exportloss.runtime import TrainSession


@serve.deployment(num_replicas=1, max_ongoing_requests=4)
class TrainingService:
    """Session that trains on what it is sent."""

    def __init__(self, artifacts: str, state: str, rate: float = 0.01) -> None:
        self.session, self.state, self.rate = TrainSession.open(artifacts), Path(state), rate
        if self.state.exists():
            self.session.resume(self.state)

    async def __call__(self, request: Request) -> Response:
        """Answer a request; errors of exportloss say what was wrong with it."""
        body = await request.body()
        try:  # a session lets one call after the other in
            return await asyncio.to_thread(self.answer, request.url.path, body)
        except (ExportLossError, KeyError, ValueError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    def answer(self, path: str, body: bytes) -> Response:
        """Train, save or export."""
        if path == "/step":
            with np.load(io.BytesIO(body), allow_pickle=False) as batch:
                result = self.session.step(batch["images"], batch["targets"], lr=self.rate)
            about: dict[str, Any] = {"loss": result.loss, "skipped": result.skipped}
            return JSONResponse(about | {"updates": self.session.updates})
        if path == "/save":
            self.session.save(self.state)
            return JSONResponse({"state": str(self.state)})
        with tempfile.TemporaryDirectory() as folder:
            self.session.export_inference(Path(folder) / "detector.onnx")
            return Response((Path(folder) / "detector.onnx").read_bytes())


if __name__ == "__main__":
    serve.run(TrainingService.bind(*sys.argv[1:3]), blocking=True)
