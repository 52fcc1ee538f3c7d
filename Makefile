# Everything stays inside this folder: tools and caches in .cache/, the environment in .venv/.
# Needs python3.11 (or newer) with pip, make, git and apt; no root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup venv servers demo test test-long bench check docs texts lock wheel clean

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p))))
CACHE := .cache
UV := $(CACHE)/uv/bin/uv
BIN := .venv/bin
# More than two processors have: tests wait for servers a third of their time.
PYTEST_WORKERS ?= 4
# In the order of their folders, one by one: the long ones come first, and no worker is left with several at the end.
PYTEST := $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist load --maxschedchunk 1

# A caller's settings for pip and uv (mirrors, certificates) are kept; only where they write is ours.
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_CACHE_DIR := $(CURDIR)/.cache/uv-cache
export UV_PYTHON_DOWNLOADS := never
# Trust whom the machine's pip and apt trust, not a list of uv's own.
export UV_SYSTEM_CERTS ?= 1
export XDG_CACHE_HOME := $(CURDIR)/.cache/xdg
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.cache/hypothesis
# lint-imports and pytest read the tree they stand in, not one that an outer environment names.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV UV_PROJECT_ENVIRONMENT
# Without bytecode each process of the tests, hundreds of them, compiles the whole program anew.
unexport PYTHONDONTWRITEBYTECODE

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

setup: venv servers  ## what the other targets need: .venv, and the lab's servers in .cache/servers

venv: .venv/.synced

servers:
	@"$(PYTHON)" .ci/fetch-servers

$(CACHE)/uv/.ready: requirements/bootstrap.lock
	@test -n "$(PYTHON)" || { echo "python3.11 or newer is missing: apt install python3 python3-pip" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than 3.11: apt install python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m pip --version >/dev/null 2>&1 \
	  || { echo "$(PYTHON) has no pip: apt install python3-pip" >&2; exit 1; }
	rm -rf $(CACHE)/uv
	"$(PYTHON)" -m pip install --quiet --quiet --root-user-action=ignore --require-hashes --no-deps \
	  --target $(CACHE)/uv -r requirements/bootstrap.lock
	touch $@

.venv/.synced: $(CACHE)/uv/.ready requirements/dev.lock pyproject.toml
	test -x $(BIN)/python || $(UV) venv --quiet --no-project --clear --python "$(PYTHON)" .venv
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python requirements/dev.lock
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: setup  ## a whole incident played on loopback: issue, revoke, fail over, refill
	@$(BIN)/dualcert lab demo

test: setup  ## all tests but those marked long
	$(PYTEST) -m "not long"

test-long: setup  ## the tests marked long; those of the database on an older PostgreSQL
	$(PYTEST) -m long --timeout 1800
	DUALCERT_TEST_POSTGRESQL=16 $(PYTEST) -m "not long" tests/store tests/migrations

bench: setup  ## how fast, and against what: a table and bench/results.json
	$(BIN)/python -m bench

check: venv  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(wildcard dualcert tests bench migrations docs)
	$(BIN)/mypy --strict .ci/fetch-servers
	$(BIN)/lint-imports --cache-dir $(CACHE)/import-linter

docs: venv  ## the reference pages in docs/, from the program's own help
	$(BIN)/python -m docs.build

texts: venv  ## the SQL in dualcert/store/*.sql, from its statements in ahead.py
	$(BIN)/python -m dualcert.store.writing

# `make lock UPGRADE=--upgrade` takes the newest of everything; without it, only what pyproject.toml asks for.
COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--no-header --no-emit-index-url --no-emit-find-links $(UPGRADE)

lock: $(CACHE)/uv/.ready  ## recompile requirements/*.lock
	$(COMPILE) requirements/bootstrap.in -o requirements/bootstrap.lock
	$(COMPILE) pyproject.toml -o requirements/runtime.lock
	$(COMPILE) pyproject.toml --all-extras --group dev -c requirements/runtime.lock -o requirements/dev.lock

wheel: venv  ## dist/dualcert-*.whl
	$(UV) build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist .

clean:  ## remove everything that these targets made
	rm -rf .venv .cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
