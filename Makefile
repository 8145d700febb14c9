# Two commands, set-up included:
#   make demo   physics -> samples -> two-step search -> report -> selection -> model.onnx -> Fortran host (demo/)
#   make test   every test: Python, C, Fortran, the installed package, MPI, SLURM
# and make bench: libemulator beside its peers and ARG, the search beside others' ways (build/bench/*.json)
# Settings: PYTHON (interpreter that makes the environment), WORKERS (processes; default: all cores).

PYTHON  ?= python3
WORKERS ?= $(shell nproc)
VENV    := .venv
PY      := $(VENV)/bin/python
BUILD   := build/release

LIBRARY_SOURCES := CMakeLists.txt $(wildcard cmake/* fortran_bridge/CMakeLists.txt fortran_bridge/include/* \
                   fortran_bridge/src/* fortran_bridge/tools/*)

.PHONY: demo test bench install system-demo system-test system-bench library clean
.DELETE_ON_ERROR:

# ---- set-up ------------------------------------------------------------------------------------------------------

system-demo:
	@bash .ci/system-packages demo

system-test:
	@bash .ci/system-packages demo test

system-bench:
	@bash .ci/system-packages demo bench

# The package is installed in place (editable), so that what runs is this tree; the C library is built on the way.
$(VENV)/.demo: pyproject.toml constraints.txt $(LIBRARY_SOURCES) | system-demo
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(PY) -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: $(VENV)/.demo | system-test
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(PY) -m pip install --quiet --editable '.[test]'
	touch $@

install: $(VENV)/.demo

library: | system-demo
	cmake -S . -B $(BUILD) -DCMAKE_BUILD_TYPE=Release -DLIBEMULATOR_EXAMPLES=ON $(LIBRARY_OPTIONS) >/dev/null
	cmake --build $(BUILD) --parallel -- --no-print-directory

# ---- make demo ---------------------------------------------------------------------------------------------------

demo: $(VENV)/.demo library
	@mkdir -p demo
	$(PY) -m emulator.activation generate --samples 200000 --seed 1 --workers $(WORKERS) --out demo/samples.nc
	$(PY) -m hpo.search --config emulator/activation/demo.toml --data demo/samples.nc --workers $(WORKERS) --out demo/study
	$(PY) -m emulator.export demo/study --pick best --out demo/best.onnx
	$(PY) -m emulator.export demo/study --pick lightest --tolerance 9 --out demo/lightest.onnx
	$(PY) -m hpo.report demo/study --tolerance 9
	$(PY) -m emulator.activation compare --host $(BUILD)/fortran_bridge/examples/host/activation_host \
	    --model lightest=demo/lightest.onnx --model best=demo/best.onnx --out demo/summary.json

# ---- make test ---------------------------------------------------------------------------------------------------

# The LibTorch backend is built against the environment's own torch, so after it.
test: $(VENV)/.test
	$(MAKE) --no-print-directory library \
	    LIBRARY_OPTIONS="-DLIBEMULATOR_TORCH=ON -DLIBEMULATOR_TORCH_PYTHON=$(CURDIR)/$(PY)"
	ctest --test-dir $(BUILD) --output-on-failure
	$(PY) -m ruff check .
	$(PY) -m pytest --complete

# ---- make bench --------------------------------------------------------------------------------------------------

bench: $(VENV)/.demo | system-bench
	$(PY) fortran_bridge/bench/run.py
	$(PY) -m hpo.bench

clean:
	rm -rf build demo $(VENV)
