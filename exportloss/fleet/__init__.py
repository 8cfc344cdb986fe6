"""Federated training of a fleet: devices, a server, and Flower between them.

`node` and `server` know no network; `flower` carries what they exchange. Needs neither torch nor
onnx, and Flower only in `flower`.
"""
