"""The server and its simulation: `python job.py server.toml site-1 site-2`."""

import sys
import tomllib
from pathlib import Path

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.model_controller import ModelController
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import ScriptRunner

from exportloss.fleet.configured_server import run_server
from exportloss.fleet.messages import Answer, Result, Vectors


class Fleet(ModelController):
    def __init__(self, config):
        super().__init__(persistor_id="")
        self.config = config

    def run(self):
        run_server(self, tomllib.loads(Path(self.config).read_text(encoding="utf-8")))

    def nodes(self):
        return range(len(self.sample_clients()))

    def ask(self, task, nodes, seconds):
        meta = {"task": {**task.settings, "digest": task.vectors.digest}}
        names = ("parameters", "statistics")
        data = FLModel(params={n: getattr(task.vectors, n) for n in names}, meta=meta)
        for node, model in enumerate(self.send_model_and_wait(data=data, timeout=int(seconds))):
            about = model.meta["result"]
            sent = Vectors(**model.params, digest=about.pop("digest"))
            yield Answer(node=node, result=Result(**about, metrics=model.metrics, vectors=sent))


if __name__ == "__main__":
    job = FedJob(name="fleet")
    job.to_server(Fleet(str(Path(sys.argv[1]).resolve())))
    for site in sys.argv[2:]:
        job.to(ScriptRunner(script="client.py", framework="numpy"), site)
    job.simulator_run("workspace", clients=sys.argv[2:], threads=len(sys.argv) - 2)
