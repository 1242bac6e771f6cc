# `make demo` and `make check` need nothing but python3 (3.11 or newer) with pip and venv. See `make help`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# The type checker is pinned in constraints.txt: it need not ask whether there is a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint check faults outages soak bench

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | sort | expand -t 10

demo: $(STAMP) ## Train a small model at several sites and track it
	$(BIN)/trackbus demo

test: $(STAMP) ## Run the tests, three files at a time
	$(BIN)/pytest -n 3 --dist loadfile

lint: $(STAMP) ## Style, format, types and the import law
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

check: lint test ## What must pass before a commit

faults: $(STAMP) ## Faults at random, and a table of what they cost (15 min)
	PYTHONPATH=tests $(BIN)/python -P -m faults.campaign

outages: $(STAMP) ## Faults one by one, those that take long
	$(BIN)/pytest -m faults

soak: $(STAMP) ## A thousand runs, to see what grows
	$(BIN)/pytest -m soak

bench: $(STAMP) ## Run every benchmark
	@missed=0; for script in benchmarks/bench_*.py; do \
	    echo "== $$script"; $(BIN)/python "$$script" || missed=1; \
	done; exit $$missed

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "trackbus needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	    || { echo "python's venv module is missing (on Debian: the package python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
	@touch $@
