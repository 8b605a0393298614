# `make demo` and `make test` do all of their own set-up; the second time there is nothing left to set up.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test slow lint format map bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

# The stamp holds the install; a changed pyproject or pin makes it stale.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "imtok needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --upgrade pip setuptools
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

demo: .venv/.installed  ## train, export and evaluate a small tokenizer on generated images (about 4 minutes)
	$(BIN)/imtok train experiment=quickstart

test: .venv/.installed  ## the tests, but for the slow ones, on all cores
	$(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal

slow: .venv/.installed  ## the slow tests: kill and resume, two processes, the wheel in an empty environment
	$(BIN)/python -m pytest -q -m slow

lint: .venv/.installed  ## ruff's rules and format, imports that go down only, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/as_package.py lint-imports
	$(BIN)/python .ci/as_package.py mypy -p imtok

format: .venv/.installed  ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

map:  ## write docs/map.md: every file with the first sentence of its docstring
	$(PYTHON) docs/map.py

bench: .venv/.installed  ## speed: each pair of things interleaved in one process (about 25 minutes)
	$(BIN)/imtok benchmark train experiment=quickstart
	$(BIN)/imtok benchmark train experiment=llamagen_vq16
	$(BIN)/imtok benchmark evaluate
	$(BIN)/imtok benchmark loader
	$(BIN)/imtok benchmark quantizers

clean:  ## remove the environment and build leftovers, never runs/
	rm -rf .venv build dist *.egg-info
