# `make` alone prints the targets. Each target works on a fresh machine and creates .venv first.
.DEFAULT_GOAL := help
.PHONY: help demo test quick check messages fuzz random-jobs bench soak wheel image image-test publish pins clean
.DELETE_ON_ERROR:

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.made-from-pyproject

# The first Python of this list that is 3.11 or newer; PYTHON=... chooses another.
PYTHON ?= $(firstword $(foreach p,python3 python3.11 python3.12 python3.13 python3.14,\
  $(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))

# Unbuffered output would hide lost output of children that die, and hundreds of children should not
# compile the same modules again.
unexport PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## run a job over generated pings in a local S3 server; result in demo-output/
	@$(BIN)/python -m demo.run

# Most tests wait for Ray, servers or children. Each worker has a Ray and an S3 server of its own
# (tests/support/sharing.py). WORKERS=0 runs all tests in one process.
WORKERS ?= 3

test: check  ## run check, then all tests
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --no-loadscope-reorder

quick: $(STAMP)  ## run unit and contract tests, without Ray and servers (under a minute)
	@$(BIN)/python -m pytest -q --numprocesses 2 -m "not ray and not server and not slow" tests/unit tests/contract

check: $(STAMP)  ## run ruff and mypy
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check --quiet
	@$(BIN)/python -m mypy

messages: $(STAMP)  ## write the snapshot of all error messages (tests/system/bad_input/messages.md)
	@RAY_MR_WRITE_ERRORS=1 $(BIN)/python -m pytest -q tests/system/bad_input

fuzz: $(STAMP)  ## fuzz each external interface for FUZZ_S seconds (600)
	@RAY_MR_FUZZ_S=$(or $(FUZZ_S),600) $(BIN)/python -m pytest -q --timeout 0 tests/system/fuzz

random-jobs: $(STAMP)  ## compare JOBS random jobs (1,000; on Ray 100) with a plain implementation
	@RAY_MR_RANDOM_JOBS=$(or $(JOBS),1000) $(BIN)/python -m pytest -q --numprocesses 2 tests/system/test_random_jobs.py

soak: $(STAMP)  ## run 20,000 objects under all faults at once, twice (about an hour each)
	@PYTHONPATH=.:tests/support $(BIN)/python tests/support/soak.py
	@PYTHONPATH=.:tests/support $(BIN)/python tests/support/soak.py --bad 0.01

bench: $(STAMP)  ## compare the speed with a bare loop (takes long)
	@$(BIN)/python benchmarks/telemetry.py

wheel: $(STAMP)  ## build dist/ray_mr-VERSION-py3-none-any.whl
	@rm -rf build  # setuptools would add files that it built from modules since removed
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/ray_mr-*.whl

# The image is REGISTRY/INDEX, as in 2014; INDEX is the user's own place in the registry.
REGISTRY ?=
INDEX    ?= $(or $(USER),$(shell id -un))/ray-mr
IMAGE    := $(if $(REGISTRY),$(REGISTRY)/$(INDEX),ray-mr)

image:  ## build the container image with docker, podman or buildah (docs/how-to/image.md)
	@image/image.sh build $(IMAGE)

image-test: $(STAMP)  ## build the image and run jobs in it
	@$(BIN)/python -m pytest tests/system/image

publish:  ## show what would be pushed to REGISTRY/INDEX; PUSH=1 builds and pushes it
	@if [ -z "$(REGISTRY)" ]; then echo "publish where? make publish REGISTRY=registry.example.org INDEX=me/ray-mr PUSH=1" >&2; exit 1; fi
	@if [ "$(PUSH)" = 1 ]; then image/image.sh build $(IMAGE) && image/image.sh push $(IMAGE); \
	else echo "would build and push $(IMAGE); PUSH=1 does it"; fi

pins: $(STAMP)  ## write the newest allowed versions into image/requirements.txt
	@$(BIN)/python image/pins.py

clean:  ## remove everything that make has built, .venv included
	rm -rf $(VENV) demo-output bench-output build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .incomplete is in .venv while it is created; if it is still there, start again.
$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
	  echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv (or PYTHON=/path/to/python3 make ...)" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "$(PYTHON) is not Python 3.11 or newer: apt-get install python3 python3-venv" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "$(PYTHON) cannot make a virtual environment: apt-get install $(notdir $(PYTHON))-venv" >&2; exit 1; fi
	@if [ -e $(VENV)/.incomplete ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "creating $(VENV) (some minutes, about 1 GB)" >&2; \
	  rm -rf $(VENV) && mkdir $(VENV) && touch $(VENV)/.incomplete && $(PYTHON) -m venv $(VENV); fi
	@touch $(VENV)/.incomplete
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@rm $(VENV)/.incomplete
	@touch $@
