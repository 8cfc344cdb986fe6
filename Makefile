# `make demo` and `make test` need Python 3.11 and pip, and set up all the rest themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A device: no torch, no onnx, the newest onnxruntime.
DEVICE := .venv-device
LOWEST := .venv-lowest
# The page that trains in a browser. CHROMIUM runs it in the tests.
WEB := devices/web
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
# Of pip-audit alone, whose packages are none of ours.
AUDIT := .venv-audit
# What builds the pages; exportloss itself is read, not installed.
DOCS := .venv-docs
# Other engines beside onnxruntime, where their wheels can be had.
ENGINES := .venv-engines
# TensorRT for RTX, whose parser and builder need no GPU: Linux on x86-64 and Python 3.11.
TENSORRT := .venv-tensorrt
# What `make gpu` runs in: torch 2.11 or later and pytest; onnxruntime-gpu for the artifacts.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
SOURCES := $(shell find export models exportloss/loss exportloss/runtime exportloss/*.py -name '*.py')

# Of fuzzing, a target.
TARGET_SECONDS ?= 60

# Parts of `make test` with an environment of their own, each in one process: two at a time.
PARTS := test-device engines tensorrt web
# The output of a part in one piece, which GNU Make 3 cannot do.
SYNCED := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: demo docs test test-device engines tensorrt web web-checks fuzz check lowest licences lock gpu gpu-artifacts clean

demo: $(READY)
	$(BIN)/exportloss demo --output runs/demo

test: check licences
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	@$(MAKE) --no-print-directory -j 2 $(SYNCED) $(PARTS)

test-device: $(DEVICE)/.ready build/device/expected.json
	$(DEVICE)/bin/python -m pytest tests/device

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

# The page, in build/web/site, and its tests in node and Chromium.
web:
	@if ! command -v node >/dev/null || ! command -v npm >/dev/null; \
		then echo "the page: not built, for node (20 or later) and npm are not installed"; \
	elif ! $(MAKE) --no-print-directory $(WEB)/node_modules/.ready; \
		then echo "the page: not built, for its packages cannot be had here"; \
	else $(MAKE) --no-print-directory web-checks; fi

web-checks: $(DEVICE)/.ready build/web/data/python.json
	cd $(WEB) && npm run --silent check && npm run --silent licences && npm run --silent build
	cd $(WEB) && npm run --silent test
	@if [ -z "$(CHROMIUM)" ]; \
		then echo "the page in a browser: not tested, for there is no Chromium; install it, or name it in CHROMIUM"; \
	else cd $(WEB) && CHROMIUM=$(CHROMIUM) npm run --silent browser ../../build/web/browser && \
		cd ../.. && $(DEVICE)/bin/python -m pytest tests/web; fi

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
	$(BIN)/lint-imports
	@if $(MAKE) --no-print-directory --silent $(AUDIT)/.ready >/dev/null 2>&1; \
		then $(AUDIT)/bin/python scripts/audit.py; \
		else echo "known vulnerabilities: not checked: pip-audit cannot be installed here"; fi

# The pages of docs/ and the API reference, in site/: opens from the disk, fetches nothing.
docs: $(DOCS)/.ready
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo site/index.html

gpu:
	@$(GPU_PYTHON) benchmarks/gpu.py

gpu-artifacts: $(READY)
	$(BIN)/python -m tests.gpu.make_artifacts build/gpu

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed (the environments are locked for it), got" \
		"`$(PYTHON) --version`; run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@scripts/install.sh $(BIN)/python requirements-dev
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.fuzz: requirements-fuzz.lock $(READY)
	@scripts/install.sh $(BIN)/python requirements-fuzz
	touch $@

# With nothing of ours in them.
$(AUDIT)/.ready $(DOCS)/.ready: .venv-%/.ready: requirements-%.lock
	$(PYTHON) -m venv $(@D)
	@scripts/install.sh $(@D)/bin/python $(basename $<)
	touch $@

.venv-%/.ready: requirements-%.lock pyproject.toml
	$(PYTHON) -m venv $(@D)
	@scripts/install.sh $(@D)/bin/python $(basename $<)
	$(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(@D)/bin/python -m pip check
	touch $@

build/device/expected.json: $(READY) tests/device/make_artifacts.py tests/support/bright_detector.py $(SOURCES)
	$(BIN)/python -m tests.device.make_artifacts $(@D)

build/web/data/python.json: $(READY) tests/web/make_artifacts.py $(SOURCES)
	$(BIN)/python -m tests.web.make_artifacts $(@D)

$(WEB)/node_modules/.ready: $(WEB)/package-lock.json
	cd $(WEB) && npm ci --silent
	touch $@

build/tensorrt/graphs.json: $(READY) tests/tensorrt/make_artifacts.py $(SOURCES)
	$(BIN)/python -m tests.tensorrt.make_artifacts $(@D)

clean:
	rm -rf $(VENV) $(DEVICE) $(LOWEST) $(AUDIT) $(DOCS) $(ENGINES) $(TENSORRT) runs build site *.egg-info \
		$(WEB)/node_modules \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis
