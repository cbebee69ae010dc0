# Needs Python 3.11 or newer (with pip and venv), make and git; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test coverage docs bench clean

# A first picture from the sandbox: free and offline.
demo: .venv/installed
	@$(BIN)/flux-cli imagine "a sunflower field in the wind" --sandbox

# What a change has to pass.
test: export PYTHONDONTWRITEBYTECODE :=
test: .venv/installed-dev
	@sh tests/install-debian-packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/pytest --collect-only -q >/dev/null || true  # compiles the tests once, not once per worker
	$(BIN)/pytest -n 6 --dist worksteal

# The same tests with branch coverage, including subprocesses.
coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: .venv/installed-dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 6 --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered

# Generated files: the manual and the README's picture.
docs: .venv/installed-dev
	$(BIN)/python -m man.generate
	$(BIN)/python -m tests.readme_picture

# Benchmarks; they check nothing.
bench: .venv/installed-dev
	@for table in tests/benchmarks/[a-z]*.py; do $(BIN)/python -m tests.benchmarks.$$(basename $$table .py) || exit; done

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flux-cli needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[sandbox]'
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet 'pip>=25.1'  # the first with dependency groups
	$(BIN)/pip install --quiet --editable '.[sandbox,listen,preview]' --group dev
	@touch .venv/installed $@
