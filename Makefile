# Needs Python 3.11 or newer (with pip and venv), make and git; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test coverage docs bench clean

# A first picture, free and offline: the embedded service draws it.
demo: .venv/installed
	@$(BIN)/flux-cli imagine "a sunflower field in the wind" --sandbox

# All that decides whether a change may land.
test: .venv/installed-dev
	@sh tests/install-debian-packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 4 --dist worksteal

# The same tests, with the branches that they cover, also in the processes that they start.
coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: .venv/installed-dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 4 --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered

# What is generated from the program: manual pages and the README's picture.
docs: .venv/installed-dev
	$(BIN)/python -m man.generate
	$(BIN)/python -m tests.readme_picture

# Tables of speed and cost; they assert nothing.
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
	$(BIN)/pip install --quiet 'pip>=25.1'  # the first that knows dependency groups
	$(BIN)/pip install --quiet --editable '.[sandbox,listen,preview]' --group dev
	@touch .venv/installed $@
