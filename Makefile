# `make` alone prints help. demo and test each work on a fresh machine: both use .venv.
.DEFAULT_GOAL := help
.PHONY: help demo test quick check messages fuzz random-jobs bench soak wheel image image-test publish pins clean
.DELETE_ON_ERROR:

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.made-from-pyproject

# The first of these that is Python 3.11 or newer; PYTHON=... chooses another.
PYTHON ?= $(firstword $(foreach p,python3 python3.11 python3.12 python3.13 python3.14,\
  $(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))

# Unbuffered output hides what is lost when a child dies: tests see Python's own buffering. And
# hundreds of children need not compile the same modules again.
unexport PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## pings in an S3 server, mapper, reducer: a checked result in demo-output/
	@$(BIN)/python -m demo.run

# Most tests wait: for Ray, for servers, for children. Each of these workers has a Ray and an S3 server
# of its own (tests/support/sharing.py). WORKERS=0: all in one process.
WORKERS ?= 3

test: check  ## check, then all tests
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --no-loadscope-reorder

quick: $(STAMP)  ## unit and contract tests without Ray and servers, in under a minute
	@$(BIN)/python -m pytest -q --numprocesses 2 -m "not ray and not server and not slow" tests/unit tests/contract

check: $(STAMP)  ## ruff and mypy
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check --quiet
	@$(BIN)/python -m mypy

messages: $(STAMP)  ## write the snapshot of all error messages (tests/system/bad_input/messages.md)
	@RAY_MR_WRITE_ERRORS=1 $(BIN)/python -m pytest -q tests/system/bad_input

fuzz: $(STAMP)  ## FUZZ_S seconds (600) of odd input for each door to the outside
	@RAY_MR_FUZZ_S=$(or $(FUZZ_S),600) $(BIN)/python -m pytest -q --timeout 0 tests/system/fuzz

random-jobs: $(STAMP)  ## 1,000 random jobs on the local engine and 100 on Ray, against a plain reading
	@RAY_MR_RANDOM_JOBS=$(or $(JOBS),1000) $(BIN)/python -m pytest -q --numprocesses 2 tests/system/test_random_jobs.py

soak: $(STAMP)  ## two runs of 20 minutes under every fault at once, compared with the truth
	@PYTHONPATH=.:tests/support $(BIN)/python tests/support/soak.py
	@PYTHONPATH=.:tests/support $(BIN)/python tests/support/soak.py --bad 0.01

bench: $(STAMP)  ## how fast against the bare loop (takes long)
	@$(BIN)/python benchmarks/telemetry.py

wheel: $(STAMP)  ## build dist/ray_mr-VERSION-py3-none-any.whl
	@rm -rf build  # setuptools would add files that it built from modules since removed
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/ray_mr-*.whl

# As in 2014: the image is REGISTRY/INDEX, INDEX being the user's own place there.
REGISTRY ?=
INDEX    ?= $(or $(USER),$(shell id -un))/ray-mr
IMAGE    := $(if $(REGISTRY),$(REGISTRY)/$(INDEX),ray-mr)

image:  ## the container image, with docker, podman or buildah (docs/how-to/image.md)
	@image/image.sh build $(IMAGE)

image-test: $(STAMP)  ## build the image and run jobs in it
	@$(BIN)/python -m pytest tests/system/image

publish:  ## show what would be pushed to REGISTRY/INDEX; PUSH=1 builds and pushes it
	@if [ -z "$(REGISTRY)" ]; then echo "publish where? make publish REGISTRY=registry.example.org INDEX=me/ray-mr PUSH=1" >&2; exit 1; fi
	@if [ "$(PUSH)" = 1 ]; then image/image.sh build $(IMAGE) && image/image.sh push $(IMAGE); \
	else echo "would build and push $(IMAGE); PUSH=1 does it"; fi

pins: $(STAMP)  ## newest versions that pyproject.toml allows into image/requirements.txt
	@$(BIN)/python image/pins.py

clean:  ## remove what make has made, .venv too
	rm -rf $(VENV) demo-output bench-output build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .incomplete stands in .venv while it is being made: if it is still there, begin again.
$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
	  echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv (or PYTHON=/path/to/python3 make ...)" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "$(PYTHON) is no Python 3.11 or newer: apt-get install python3 python3-venv" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "$(PYTHON) cannot make a virtual environment: apt-get install $(notdir $(PYTHON))-venv" >&2; exit 1; fi
	@if [ -e $(VENV)/.incomplete ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "making $(VENV) (some minutes, about 1 GB)" >&2; \
	  rm -rf $(VENV) && mkdir $(VENV) && touch $(VENV)/.incomplete && $(PYTHON) -m venv $(VENV); fi
	@touch $(VENV)/.incomplete
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@rm $(VENV)/.incomplete
	@touch $@
