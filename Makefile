# make            the environment, then the experiments that config.yaml runs (digits)
# make studies    every study of the experiments that config.yaml runs (digits): about an hour
# make counterfactual  what removing images does to generated ones (digits: 115 trainings)
# make report     the report with all studies and counterfactuals
# make plan       EXPERIMENT=… [DEVICE=a100] [GPUS=1]: what it will cost, before anything runs
# make attribute  MODEL=… IMAGES=… QUERIES=…: which training images made these images, by your model
# make test       lint-free tests: units, promises of the workflow, and the smoke experiment
# make lint       ruff, snakefmt and snakemake --lint
# make bench      our engines against the alternatives; writes docs/benchmarks.md
SHELL := /bin/bash
PYTHON ?= python3
CORES ?= all
VENV := .venv
BIN := $(VENV)/bin
SNAKEMAKE := $(BIN)/python -m snakemake

.DEFAULT_GOAL := run
.PHONY: env run studies counterfactual report plan attribute test lint bench clean

env: $(VENV)/.installed

$(VENV)/.installed: envs/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; set PYTHON to one: make PYTHON=python3.12"; exit 1; }
	@echo "Installing the environment into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

run: env
	@$(SNAKEMAKE) --cores $(CORES) --logger progress
	@$(BIN)/python -m attribution summary

studies: env
	@$(SNAKEMAKE) all studies --cores $(CORES) --logger progress
	@echo "Tables and figures: results/*/studies"

counterfactual: env
	@$(SNAKEMAKE) counterfactual --cores $(CORES) --logger progress
	@echo "Tables and figures: results/*/counterfactual"

report: env
	@$(SNAKEMAKE) full_report --cores $(CORES) --logger progress
	@ls results/*/report_full.html

plan: env
	@$(BIN)/python -m attribution plan $(or $(EXPERIMENT),digits) $(if $(DEVICE),--device $(DEVICE)) \
		$(if $(GPUS),--gpus $(GPUS))

attribute: env
	@test -n "$(MODEL)" -a -n "$(IMAGES)" -a -n "$(QUERIES)" || { echo "Say which: make attribute \
	MODEL=<diffusers folder or hub id> IMAGES=<folder> QUERIES=<folder> [LORA=<file>] [PROMPTS=<csv>] [NAME=<name>]"; exit 1; }
	@$(BIN)/python -m attribution attribute --model "$(MODEL)" --images "$(IMAGES)" --queries "$(QUERIES)" \
		--cores $(CORES) $(if $(LORA),--adapter "$(LORA)") $(if $(PROMPTS),--prompts "$(PROMPTS)") \
		$(if $(NAME),--name "$(NAME)")

test: env
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: env
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile rules
	@$(SNAKEMAKE) --lint

bench: env
	@$(BIN)/python -m benchmarks

clean:
	rm -rf results/*/scratch
