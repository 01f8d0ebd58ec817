# One command for each thing. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# A folder of wheels or an index page to take torch from, for a build without CUDA:
#   make env TORCH_WHEELS=<folder or index URL>
TORCH_WHEELS ?=
TORCH_FROM := $(if $(TORCH_WHEELS),$(if $(wildcard $(TORCH_WHEELS)/.),--find-links,--extra-index-url) $(TORCH_WHEELS))

# Options of `kedro run`: make run ARGS="--env=movielens_1m --params=seed=1"
ARGS ?=

export KEDRO_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: help env run test lint viz ui bench

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */|/' | \
		awk -F'|' '{printf "  make %-7s %s\n", $$1, $$2}'

env: $(INSTALLED)  ## make the environment (once)

$(INSTALLED): pyproject.toml constraints.txt
	$(if $(TORCH_WHEELS),,@echo "torch: pip takes a CPU wheel where its configuration knows one, else the CUDA build (several GB);"; \
		echo "       make env TORCH_WHEELS=<folder or index URL> says where a CPU wheel is.")
	@echo "installing into $(VENV); this takes some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH_FROM) -c constraints.txt -e '.[viz,tune,test,dev]'
	@touch $@

run: env  ## run everything on the embedded data; what is up to date is not repeated
	$(BIN)/kedro run $(ARGS)

test: env  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

lint: env  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

viz: env  ## show the pipelines in a browser (Kedro-Viz)
	$(BIN)/kedro viz run $(ARGS)

ui: env  ## compare the runs in a browser (MLflow)
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db $(ARGS)

bench: env  ## measure speed; results go to benchmarks/results
	$(BIN)/python -m benchmarks $(ARGS)
