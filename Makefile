# `make demo` and `make test` are all a newcomer needs; both do the set-up first.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON := .venv/bin/python
# Tests wait more than they compute; a file stays on one worker, so that its lab is started once.
# In the order of tests/conftest.py: by itself xdist puts files with one long test last.
PYTEST := $(PYTHON) -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder

# What `make coverage` runs. Python 3.11 has no sys.monitoring: measuring takes 75 % more processor
# time (tests/unit: 203 s instead of 115 s), so that the other targets do not measure.
TIERS := tests/unit tests/contract

.PHONY: help setup demo test unit contract storage e2e crash check coverage bench proto
.PHONY: proto-baseline docs lab lock clean

help: ## Say what there is to make
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: ## Install what is missing: Debian packages, Python environment, the lab's guests
	@deploy/setup/debian-packages.sh
	@deploy/setup/python-environment.sh
	@$(PYTHON) -m lab.guest

demo: setup ## Migrate two running VMs from the lab's vCenter to its CloudStack
	@.venv/bin/v2c demo $(ARGS)

test: setup ## All tests; those that measure run at the end, with nothing beside them
	$(PYTEST) -m "not alone" tests
	$(PYTHON) -m pytest -q -m alone tests

unit: setup ## Tests of single modules, in seconds
	$(PYTEST) tests/unit

contract: setup ## Tests against real servers on sockets
	$(PYTEST) tests/contract

storage: setup ## Tests of the data path with real nbdkit, qemu and libnbd
	$(PYTEST) tests/storage

e2e: setup ## Whole migrations in the lab, by CLI, REST and gRPC
	$(PYTEST) tests/e2e

crash: setup ## Kill processes at every stage and resume
	$(PYTEST) tests/crash

check: setup ## Format, lint, types, contracts, architecture
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	cd proto && ../.venv/bin/buf lint
	cd proto && ../.venv/bin/buf breaking --against baseline.binpb
	proto/check.sh $(CURDIR)/$(PYTHON)

coverage: setup ## What the unit and contract tiers leave untested: the weakest modules, and the total
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(PYTHON) -m coverage run -m pytest -q -n 3 --dist loadfile -m "not alone" $(TIERS); status=$$?; \
	  $(PYTHON) -m coverage combine -q && \
	  $(PYTHON) -m coverage report | sed -n -e '1,22p' -e '$$p'; exit $$status

bench: setup ## Ratios of the copy path to nbdcopy, into build/bench.json
	$(PYTHON) -m tests.bench

proto: setup ## Generate the stubs from proto/
	proto/generate.sh $(CURDIR)/$(PYTHON)

proto-baseline: setup ## Take the present contracts as those that later ones are compared with
	cd proto && ../.venv/bin/buf build --exclude-source-info --output baseline.binpb

docs: setup ## Render the pages that come from the code
	$(PYTHON) -m docs.render

lab: setup ## Bring the lab up and leave it running
	.venv/bin/v2c lab up

lock: setup ## Pin the newest allowed versions of all extras (needs uv)
	uv pip compile pyproject.toml --all-extras --generate-hashes --no-annotate --no-header \
	  --python /usr/bin/python3 --output-file requirements.lock --upgrade

clean: ## Remove what was built here
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache
