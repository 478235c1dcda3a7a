# Two commands need no set-up but Python 3.11 or later: `make demo` and `make test`. Both make .venv on first use.

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
READY := .venv/.ready
BENCH_READY := .venv/.ready-bench
GPU_BIN := .venv-gpu/bin
GPU_READY := .venv-gpu/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu gpu-compile check format bench bench-compare conformance models clean
.DELETE_ON_ERROR:

export TEXT # the words reach the program as they are, quotes and all

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## read a line of text with a real network; other words: make demo TEXT="..."
	@$(BIN)/python -m benchmarks.demo $(if $(TEXT),-- "$$TEXT")

test: $(READY) ## format, lint, types and tests: what every change must pass
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n $(JOBS)

test-gpu: $(GPU_READY) ## kernels for GPUs, on any Linux machine; installs Triton, a gigabyte, into .venv-gpu
	$(GPU_BIN)/pytest -n $(JOBS) tests/targets/gpu

gpu-compile: $(GPU_READY) ## compile all 26 models for two kinds of GPU; other ones: make gpu-compile ARCH=sm_80
	$(GPU_BIN)/python -m benchmarks.gpu_compile $(if $(ARCH),--arch "$(ARCH)")

check: test ## the same as test

format: $(READY) ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH_READY) ## measure against the peers; results go to .bench/COMMIT.json
	$(BIN)/python -m benchmarks run

bench-compare: $(BENCH_READY) ## two results side by side: make bench-compare OLD=... NEW=...
	@$(if $(and $(OLD),$(NEW)),,$(error give two results: make bench-compare OLD=... NEW=...))
	$(BIN)/python -m benchmarks compare "$(OLD)" "$(NEW)"

conformance: $(READY) ## run the ONNX backend suite and write docs/reference/onnx.md
	$(BIN)/python -m benchmarks.conformance

models: $(READY) ## put all 26 models into .models (4 GB)
	$(BIN)/python -m benchmarks.models make

clean: ## remove caches and build outputs; .venv, .models and .bench stay
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@test -x $(BIN)/pip || { $(MAKE_VENV); }
	@echo "Installing migx and its test tools into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(BENCH_READY): $(READY)
	@echo "Installing the benchmark tools into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

$(GPU_READY): pyproject.toml
	@test -x $(GPU_BIN)/pip || { $(MAKE_VENV); }
	@echo "Installing migx, its test tools, Triton and CuPy into .venv-gpu"
	@$(GPU_BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,gpu]'
	@touch $@

define MAKE_VENV
if $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
  echo "Making $(@D) with $$($(PYTHON) --version)"; \
  $(PYTHON) -m venv $(@D); \
else \
  found=$$($(PYTHON) --version 2>&1) || found="not there"; \
  echo "error: migx needs Python 3.11 or later; $(PYTHON) is $$found." >&2; \
  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
  exit 1; \
fi
endef
