# Two commands: `make demo` shows the whole way, `make test` runs every check.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types unit results clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[train,timm,ray,ultralytics,dev]'
	touch $@

demo: .venv/installed
	$(BIN)/scalewise demo

test: lint types unit

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

unit: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

results: .venv/installed
	$(BIN)/python benchmarks/results.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
