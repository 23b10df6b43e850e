# Two commands matter: `make demo` and `make test`. Both make the environment first if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY := PASSIVE
export DO_NOT_TRACK := 1
# images of containers set it; uv writes no bytecode either, and every process would compile torch and transformers anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-ray ui install install-dev check-install lint clean

help:
	@echo "make demo    environment, base model, the whole graph on data/order_intake, verdict"
	@echo "make test    environment and all tests"
	@echo "make test-ray  the tests that take minutes on a real Ray cluster"
	@echo "make ui      Dagster's and MLflow's web pages on 127.0.0.1"
	@echo "make check-install  a new environment without the tests' packages: imports everything and scores a file"
	@echo "make lint    ruff, mypy, dagster definitions validate"
	@echo "make clean   remove the environment and everything the pipeline made"

install:
	@$(PYTHON) tools/install.py

install-dev:
	@$(PYTHON) tools/install.py --dev

# a gate that says no (exit code 2) is an answer, not an error
demo: install
	@$(BIN)/finetune run order_intake || [ $$? -eq 2 ]

test: install-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=12

test-ray: install-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ray -m ray -n 0

check-install:
	@$(PYTHON) tools/check_install.py

lint: install-dev
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/dagster definitions validate -w workspace.yaml

ui: install
	@$(BIN)/finetune ui

clean:
	rm -rf $(VENV) .finetune
