# make demo | test | lint | types | clean. On a bare machine this needs Python 3.10 to 3.13 and make.
PYTHON ?= python3
VENV := .venv
EXTRAS ?= development
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
SHIPPED := ldm cldm modi_vae lumiply

.PHONY: demo test lint types check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.run
	$(BIN)/python -m lumiply demo $(ARGS)

test: $(VENV)/.development
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.development
	$(BIN)/mypy

check: lint types test

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 13) else "Python 3.10 to 3.13 is needed, and $(PYTHON) is %d.%d. Install one of them and say which: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch into $(VENV), once. It is large: this may take minutes."
	$(PIP) torch
	$(PIP) --quiet --editable .
	touch $@

$(VENV)/.development: $(VENV)/.run
	$(PIP) --quiet --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
