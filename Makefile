# `make demo` and `make test` need only Python 3.11 to 3.13: they make .venv on first use.
# Another interpreter: make test PYTHON=python3.12

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow lint types

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $(name))))
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKDIR ?= runs/demo

help:
	@echo 'make demo       the whole workflow on this machine, into $(WORKDIR)'
	@echo 'make test       the fast tests'
	@echo 'make test-slow  the end-to-end tests (many minutes)'
	@echo 'make lint       ruff'
	@echo 'make types      mypy on the built wheel'
	@echo 'make venv       only the environment, in $(VENV)'

venv: $(STAMP)

# Everything is pinned by constraints.txt; the stamp is renewed when what is installed may change.
$(STAMP): setup.py pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'No Python 3.11 to 3.13 found; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("$(PYTHON) is Python %d.%d; Parti needs 3.11 to 3.13 (make ... PYTHON=...)" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo '$(PYTHON) cannot make environments; install its venv package (Debian: apt install python3-venv)' >&2; exit 1; }
	@echo 'Setting up $(VENV) with $(PYTHON) (a few minutes, once)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt 'setuptools>=77' -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/parti demo --workdir $(WORKDIR)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(PYTEST_ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --timeout 3600 $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# From another folder, so that mypy sees the installed package and not the mapped folders; anew, as
# setuptools keeps deleted files in build/lib.
types: $(STAMP)
	rm -rf build
	$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w build/wheel .
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target build/types build/wheel/*.whl
	cd build/types && MYPYPATH=. $(abspath $(BIN))/python -m mypy --config-file $(abspath pyproject.toml) --cache-dir $(abspath .mypy_cache) -p parti
