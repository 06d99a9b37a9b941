# The two commands of the README, and what they are made of. Everything happens in .venv.
VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo serve-demo test test-slow test-serve test-real lint types format clean help

help:  ## Show what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(READY)  ## Train four models on the embedded catalogue, compare them, steer one; leaves runs/demo/report/index.html.
	rm -rf runs/demo
	$(RUN)/guiderec demo --out runs/demo

serve-demo: $(READY)  ## Serve the embedded catalogue and its page on http://127.0.0.1:8000; trained once into runs/serve-demo.
	$(RUN)/guiderec serve --demo

test: $(READY)  ## All tests but the slow ones and those on real data.
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m "not slow and not realdata" -n 2

test-slow: $(READY)  ## The slow tests.
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m "slow and not realdata" -n 2

test-serve: $(READY)  ## All tests of the server, on a temporary PostgreSQL too; skipped with a reason where it is absent.
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest tests/serving -rs

test-real: $(READY)  ## The tests on real data in ../shared/data; skipped with a reason where it is absent.
	$(RUN)/python -m pytest -m realdata -rs

lint: $(READY)  ## Style and format, without changing anything.
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(READY)  ## Static types of the package.
	$(RUN)/mypy

format: $(READY)  ## Apply the format.
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

# torch first and from the constraints: a plain resolution would take a build with CUDA libraries of several gigabytes.
$(READY): pyproject.toml constraints.txt
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## Remove the environment and all caches.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
