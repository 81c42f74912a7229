# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.
RECIPE ?= demo
ARGS ?=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
HARDMASK := $(BIN)/hardmask

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo tokens alm score pretrain glue report test lint format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo '  RECIPE=demo|small|roberta-base|roberta-large, ARGS="--out FOLDER --field value ..."'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("hardmask needs Python 3.11 or newer; name one with PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: a torch that is already in .venv (a CUDA, ROCm or CPU build of your choice) is kept.
$(VENV)/.torch: | $(BIN)/python
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install torch==$(TORCH)
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.torch
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.torch
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed

install: $(VENV)/.installed  ## what running needs, into .venv
install-dev: $(VENV)/.installed-dev  ## what tests and linters need besides

demo: install  ## all of it on the documentation of your Python packages: minutes on two CPU cores
	$(HARDMASK) glue demo $(ARGS)
	$(HARDMASK) report demo $(ARGS)

tokens: install  ## corpus to tokenizer to packed sequences
	$(HARDMASK) tokens $(RECIPE) $(ARGS)
alm: install  ## train the two auto-regressive LMs
	$(HARDMASK) alm $(RECIPE) $(ARGS)
score: install  ## every token's perplexities into hardness shards
	$(HARDMASK) score $(RECIPE) $(ARGS)
pretrain: install  ## masked-LM pre-training
	$(HARDMASK) pretrain $(RECIPE) $(ARGS)
glue: install  ## fine-tune on GLUE, or on probe tasks
	$(HARDMASK) glue $(RECIPE) $(ARGS)
report: install  ## figures and tables of a run
	$(HARDMASK) report $(RECIPE) $(ARGS)

test: install-dev  ## the tests (ARGS go to pytest)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(ARGS)

lint: install-dev $(VENV)/links  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(VENV)/links $(BIN)/mypy --namespace-packages --explicit-package-bases -p hardmask

format: install-dev  ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy does not follow setuptools' map from folders to hardmask.NAME; a folder of links shows it the same packages.
$(VENV)/links:
	mkdir -p $@/hardmask
	for folder in pipeline kernels stage1_score stage2_pretrain; do ln -sfn ../../../$$folder $@/hardmask/$$folder; done

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
