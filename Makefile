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
# Several processes that train together by MPI, where its wheels can be had.
MPI := .venv-mpi
# Flower with its simulation and NVIDIA FLARE, without torch.
FLEET := .venv-fleet
# What `make gpu` runs in: torch 2.11 or later and pytest; onnxruntime-gpu for the artifacts.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
SOURCES := $(shell find export models exportloss/loss exportloss/runtime exportloss/*.py -name '*.py')

# Of fuzzing, a target.
TARGET_SECONDS ?= 60

# Parts of `make test` with an environment of their own, each in one process: two at a time, the
# longest first, so that none is left alone at the end.
PARTS := engines fleet-test test-device tensorrt cpp test-py310 mpi web
# The output of a part in one piece, with that of the makes that it starts; GNU Make 3 cannot do so.
SYNCED := $(if $(filter output-sync,$(.FEATURES)),--output-sync=recurse)

# Of each reader of the C++ runtime, `make cpp-fuzz`.
CPP_SECONDS ?= 60
CPP_CMAKE = cmake -S devices/cpp -DORT_INCLUDE=$(abspath build/ort/include) \
	-DORT_LIBRARY=$(abspath build/ort/lib/libonnxruntime.so) -DEXPORTLOSS_TESTS=ON

# Pythons of devices; one of them in `make test`, too. py311 has the releases that py310 has.
PYTHONS := py310 py312 py313 py314
DEVICE_TESTS := tests/device --ignore tests/device/test_javascript.py
# Trains the same steps in each environment, to compare the numbers.
TRAIN_STEPS := tests.device.train_steps build/device build/steps

.PHONY: demo docs test test-device test-py310 pythons arm engines mpi tensorrt fleet fleet-test cpp cpp-long cpp-fuzz \
	web web-checks fuzz check lowest licences lock gpu gpu-artifacts clean

demo: $(READY)
	$(BIN)/exportloss demo --output runs/demo

test: check licences
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	@$(MAKE) --no-print-directory -j 2 $(SYNCED) $(PARTS)

test-device: $(DEVICE)/.ready build/device/expected.json
	$(DEVICE)/bin/python -m pytest tests/device

# A device with the oldest Python: its tests, and the same numbers in a training.
test-py310: $(DEVICE)/.ready build/device/expected.json
	@rm -rf build/steps
	@$(MAKE) --no-print-directory device-py310 steps-py310 steps-device DEVICE_TESTS="$(addprefix \
		tests/device/test_,detection.py train_command.py loss_alone.py)"
	$(DEVICE)/bin/python -m pytest tests/pythons/test_same_numbers.py

# A fleet over loopback: TLS, keys, Flower's simulation, FLARE; `make fleet` also kills its parts.
fleet-test: build/fleet/artifacts/manifest.json
	@if $(MAKE) --no-print-directory $(FLEET)/.ready; \
		then $(FLEET)/bin/python scripts/licences.py && \
			$(FLEET)/bin/python -m pytest tests/fleet_network -m "not slow"; \
		else echo "a fleet over loopback: not tested, for its wheels cannot be had here"; fi

# Ways to train four devices compared, in minutes; then what happens when parts of a fleet fail.
fleet: $(READY) build/fleet/artifacts/manifest.json
	$(BIN)/python benchmarks/fleet.py --output runs/fleet
	@$(MAKE) --no-print-directory $(FLEET)/.ready && \
		$(FLEET)/bin/python -m pytest tests/fleet_network -m slow

# The device's tests on other Pythons, and the same training on all of them.
pythons: $(READY)
	@rm -rf build/steps
	@$(MAKE) --no-print-directory $(addprefix device-,$(PYTHONS)) $(addprefix steps-,$(PYTHONS) \
		device py311 py312-training)
	$(BIN)/python -m $(TRAIN_STEPS)/training small-ort
	$(DEVICE)/bin/python -m pytest tests/pythons -rs

# A short training on an emulated aarch64; minutes, and only for a machine with apt.
arm: build/device/expected.json $(DEVICE)/.ready
	@rm -rf build/steps
	@$(MAKE) --no-print-directory steps-device
	scripts/arm.sh build/arm $(DEVICE)/bin/python
	build/arm/python -m $(TRAIN_STEPS)/arm small-sgd small-adamw
	$(DEVICE)/bin/python -m pytest tests/pythons/test_same_numbers.py

device-%: build/device/expected.json
	@if $(MAKE) --no-print-directory .venv-$*/.ready; \
		then .venv-$*/bin/python -m pytest $(DEVICE_TESTS); \
		else echo "$*: not tested, for its Python or its wheels cannot be had here"; fi

steps-%: build/device/expected.json
	@if $(MAKE) --no-print-directory .venv-$*/.ready; \
		then .venv-$*/bin/python -m $(TRAIN_STEPS)/$* \
			$(if $(findstring training,$*),small-ort,sgd adamw small-sgd small-adamw); \
		else echo "$*: not compared, for its Python or its wheels cannot be had here"; fi

# OpenVINO, tract and ONNX Runtime's plug-in for WebGPU.
engines: build/device/expected.json
	@if $(MAKE) --no-print-directory $(ENGINES)/.ready; \
		then $(ENGINES)/bin/python scripts/licences.py && \
			$(ENGINES)/bin/python -m pytest tests/device/engines -rs; \
		else echo "other engines: not tested, for their wheels cannot be had here"; fi

# mpi4py and MPICH.
mpi: build/device/expected.json
	@if $(MAKE) --no-print-directory $(MPI)/.ready; \
		then $(MPI)/bin/python scripts/licences.py && \
			$(MPI)/bin/python -m pytest tests/mpi; \
		else echo "MPI: not tested, for its wheels cannot be had here"; fi

fuzz: $(READY) $(VENV)/.fuzz
	$(BIN)/python -m fuzzing --seconds $(TARGET_SECONDS)

# The C++ runtime, where CMake, a compiler and ONNX Runtime's headers are.
cpp: $(DEVICE)/.ready build/device/expected.json
	@if scripts/ort_cpp.sh $(DEVICE)/bin/python build/ort; \
		then $(CPP_CMAKE) -B build/cpp >/dev/null && cmake --build build/cpp --parallel 2 && \
			ctest --test-dir build/cpp --output-on-failure && \
			$(DEVICE)/bin/python -m pytest tests/cpp; \
		fi

# The comparison with Python on YOLOv5n at 320 pixels, after `make cpp`; some minutes.
cpp-long: $(DEVICE)/.ready $(READY)
	$(BIN)/python -m tests.cpp.make_artifacts build/cpp-320
	$(DEVICE)/bin/python -m pytest tests/cpp/test_training.py --artifacts=build/cpp-320 \
		--cases=sgd,adamw,frozen

# The C++ runtime's readers with sanitizers: their tests, then fuzzing; libFuzzer with CXX=clang++.
cpp-fuzz: $(DEVICE)/.ready
	@if scripts/ort_cpp.sh $(DEVICE)/bin/python build/ort; \
		then $(CPP_CMAKE) -B build/cpp-fuzz -DEXPORTLOSS_SANITIZE=ON -DEXPORTLOSS_FUZZ=ON \
			-DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null && cmake --build build/cpp-fuzz --parallel 2 && \
			ctest --test-dir build/cpp-fuzz --output-on-failure && \
			scripts/fuzz_cpp.sh build/cpp-fuzz $(CPP_SECONDS); \
		fi

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
	python=$(if $(filter py%,$*),$$($(PYTHON) scripts/interpreters.py $*),$(PYTHON)) && $$python -m venv $(@D)
	@scripts/install.sh $(@D)/bin/python $(basename $<)
	$(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(@D)/bin/python -m pip check
	touch $@

build/device/expected.json: $(READY) tests/device/make_artifacts.py tests/support/bright_detector.py $(SOURCES)
	$(BIN)/python -m tests.device.make_artifacts $(@D)

build/fleet/artifacts/manifest.json: $(READY) tests/fleet_network/make_artifacts.py $(SOURCES)
	$(BIN)/python -m tests.fleet_network.make_artifacts build/fleet
build/web/data/python.json: $(READY) tests/web/make_artifacts.py $(SOURCES)
	$(BIN)/python -m tests.web.make_artifacts $(@D)

$(WEB)/node_modules/.ready: $(WEB)/package-lock.json
	cd $(WEB) && npm ci --silent
	touch $@

build/tensorrt/graphs.json: $(READY) tests/tensorrt/make_artifacts.py $(SOURCES)
	$(BIN)/python -m tests.tensorrt.make_artifacts $(@D)

clean:
	rm -rf $(VENV) $(DEVICE) $(LOWEST) $(AUDIT) $(DOCS) $(ENGINES) $(MPI) $(TENSORRT) $(FLEET) .venv-py* runs build site *.egg-info \
		$(WEB)/node_modules \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis
