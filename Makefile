# `make demo` and `make test` need Python 3.11 and pip, and set up all the rest themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A device: no torch, no onnx, the newest onnxruntime.
DEVICE := .venv-device
LOWEST := .venv-lowest
# Of pip-audit alone, whose packages are none of ours.
AUDIT := .venv-audit
# Other engines beside onnxruntime, where their wheels can be had.
ENGINES := .venv-engines
# TensorRT for RTX, whose parser and builder need no GPU: Linux on x86-64 and Python 3.11.
TENSORRT := .venv-tensorrt
# What `make gpu` runs in: torch 2.11 or later and pytest; onnxruntime-gpu for the artifacts.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
SOURCES := $(wildcard export/*.py models/*.py exportloss/*.py exportloss/runtime/*.py)

# The very files that are locked. Only where an index does not have one of them, as PyPI has not torch's
# CPU builds, the same versions in what builds it has. A file that is another than locked is an error.
define install
@$(1)/python -m pip install --quiet --require-hashes --requirement $(2).lock 2>$(1)/pip.log || \
		{ cat $(1)/pip.log >&2; grep --quiet "No matching distribution" $(1)/pip.log && \
		echo "installing $(2).txt instead, without hashes" && \
		$(1)/python -m pip install --quiet --requirement $(2).txt; }
endef

# Of fuzzing, a target.
TARGET_SECONDS ?= 60

.PHONY: demo test engines tensorrt fuzz check lowest licences lock gpu gpu-artifacts clean

demo: $(READY)
	$(BIN)/exportloss demo --output runs/demo

test: check licences $(DEVICE)/.ready build/device/expected.json
	$(BIN)/python -m pytest -n 2 --dist loadgroup
	$(DEVICE)/bin/python -m pytest tests/device
	@$(MAKE) --no-print-directory engines
	@$(MAKE) --no-print-directory tensorrt

# OpenVINO, tract and ONNX Runtime's plug-in for WebGPU.
engines: build/device/expected.json
	@if $(MAKE) --no-print-directory $(ENGINES)/.ready; \
		then $(ENGINES)/bin/python scripts/licences.py && \
			$(ENGINES)/bin/python -m pytest tests/device/engines -rs; \
		else echo "other engines: not tested, for their wheels cannot be had here"; fi

fuzz: $(READY) $(VENV)/.fuzz
	$(BIN)/python -m fuzzing --seconds $(TARGET_SECONDS)

# Its licence is NVIDIA's own, so `make licences` does not look there: nothing of it is passed on.
tensorrt:
	@if $(MAKE) --no-print-directory $(TENSORRT)/.ready; \
		then $(MAKE) --no-print-directory build/tensorrt/graphs.json && \
			$(TENSORRT)/bin/python -m pytest tests/tensorrt; \
		else echo "TensorRT: not tested, for its wheels cannot be had here"; fi

# The device's tests with the oldest releases that users may have.
lowest: $(LOWEST)/.ready build/device/expected.json
	$(LOWEST)/bin/python -m pytest tests/device

licences: $(READY) $(DEVICE)/.ready
	$(BIN)/python scripts/licences.py
	$(DEVICE)/bin/python scripts/licences.py

# What pip finds today for requirements-*.txt, with hashes; change versions there first.
lock:
	$(PYTHON) scripts/lock.py $(wildcard requirements-*.txt)
	$(PYTHON) scripts/sbom.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if $(MAKE) --no-print-directory --silent $(AUDIT)/.ready >/dev/null 2>&1; \
		then $(AUDIT)/bin/python scripts/audit.py; \
		else echo "known faults: not asked for, since pip-audit cannot be had here"; fi

gpu:
	@$(GPU_PYTHON) benchmarks/gpu.py

gpu-artifacts: $(READY)
	$(BIN)/python -m tests.gpu.make_artifacts build/gpu

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed (onnxruntime-training-cpu has no wheel for others), got" \
		"`$(PYTHON) --version`; say make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(call install,$(BIN),requirements-dev)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.fuzz: requirements-fuzz.lock $(READY)
	$(call install,$(BIN),requirements-fuzz)
	touch $@

$(AUDIT)/.ready: requirements-audit.lock
	$(PYTHON) -m venv $(AUDIT)
	$(call install,$(AUDIT)/bin,requirements-audit)
	touch $@

.venv-%/.ready: requirements-%.lock pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(call install,$(@D)/bin,$(basename $<))
	$(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(@D)/bin/python -m pip check
	touch $@

build/device/expected.json: $(READY) tests/device/make_artifacts.py tests/bright_detector.py $(SOURCES)
	$(BIN)/python -m tests.device.make_artifacts $(@D)

build/tensorrt/graphs.json: $(READY) tests/tensorrt/make_artifacts.py $(SOURCES)
	$(BIN)/python -m tests.tensorrt.make_artifacts $(@D)

clean:
	rm -rf $(VENV) $(DEVICE) $(LOWEST) $(AUDIT) $(ENGINES) $(TENSORRT) runs build *.egg-info \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis
