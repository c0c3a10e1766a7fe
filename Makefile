# Every target sets up .venv itself. Only make and Python 3.10 or newer must be installed before.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint bench bench-large docs docs-serve reference setup clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "mmts needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make setup PYTHON=python3.11"; exit 2; }
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv .venv \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv .venv; } \
		|| { rm -rf .venv; echo "could not make .venv; on Debian and Ubuntu: sudo apt-get install python3-venv"; exit 2; }
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/pip check
	@touch $@

demo: setup
	$(BIN)/mmts demo --out runs/demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -m "not slow" -n 2

test-slow: setup
	$(BIN)/pytest -m slow

bench: setup
	$(BIN)/python -m benchmarks

bench-large: setup
	$(BIN)/python -m benchmarks large

# -W -n: a broken link is an error. -E: build all pages again, because docs/conf.py holds their table of contents.
docs: setup
	@[ -x $(BIN)/sphinx-build ] || { echo "building the site needs Python 3.11 or newer"; exit 2; }
	$(BIN)/sphinx-build -q -E -W --keep-going -n -d build/doctrees docs site
	@echo "site/index.html"

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory site 8000

reference: setup
	$(BIN)/python docs/write_reference.py

clean:
	rm -rf .venv build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
