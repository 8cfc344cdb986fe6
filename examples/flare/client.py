"""A site of NVIDIA FLARE: does the server's tasks, by the site's own `NAME.toml`."""

import os
import tomllib
from pathlib import Path

import nvflare.client as flare

from exportloss.fleet.messages import Task, Vectors
from exportloss.fleet.node import Node, NodeConfig

flare.init()
own = Path(os.environ["EXPORTLOSS_FLEET_NODES"], f"{flare.get_site_name()}.toml")
node = Node(NodeConfig.of(tomllib.loads(own.read_text(encoding="utf-8"))))
while flare.is_running() and (model := flare.receive()) is not None:
    task = model.meta["task"]
    vectors = Vectors(**model.params, digest=task.pop("digest"))
    result = node.handle(Task(**task, vectors=vectors))
    sent = result.vectors or vectors
    about = {"name": result.name, "images": result.images, "digest": sent.digest}
    params = {"parameters": sent.parameters, "statistics": sent.statistics}
    flare.send(flare.FLModel(params=params, metrics=result.metrics, meta={"result": about}))
