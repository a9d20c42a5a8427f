# Two commands for a fresh machine: `make demo` and `make test`. The rest is for development.
PYTHON ?= python3
BIN := .venv/bin
# Training and tests need torch, of which the CPU build is enough; pinned so that no CUDA packages
# come along.
TORCH := torch==2.13.0

.PHONY: demo test check browser format site reference bench clean

demo: .venv/installed
	$(BIN)/selfrag demo

test: .venv/installed-dev
	$(BIN)/python -m pytest

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

# The page in a real browser: needs Chromium (Debian: apt install chromium), and axe-core from npm
# for the check of accessibility (AXE=path/to/axe.min.js).
browser: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[browser]"
	AXE=$(AXE) $(BIN)/python -m pytest tests/test_page.py

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The documentation as a site in build/site; the reference pages are written from the code first.
site: reference
	$(BIN)/zensical build --strict

reference: .venv/installed-dev
	$(BIN)/python tools/make_reference.py
	$(BIN)/python tools/make_diagrams.py

# Without DATA it is refused before anything is installed.
bench: $(if $(DATA),.venv/installed-dev)
	@test -n "$(DATA)" || { echo "bench needs the labelled sets: make bench DATA=folder" >&2; exit 2; }
	$(BIN)/python benchmarks/default_quality.py --data $(DATA) --limit 500 --json

.venv/bin/python:
	$(PYTHON) -m venv .venv
# Before 23.3 pip took `html_clean` and `html-clean` for two extras, and warned of it.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=23.3"

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[local]"
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e ".[dev]"
	@touch $@ .venv/installed

clean:
	rm -rf .venv
