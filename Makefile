# Two commands: `make demo` shows the whole way, `make test` runs every check.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types unit test-lowest test-mmdet results clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[train,timm,ray,ultralytics,dev]'
	touch $@

demo: .venv/installed
	$(BIN)/scalewise demo

test: lint types unit test-lowest test-mmdet

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

unit: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadgroup

# the oldest versions that pyproject.toml allows
.venv-lowest/installed: pyproject.toml .venv/installed
	$(PYTHON) -m venv --without-pip .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
		--editable '.[train,ultralytics,dev]'
	touch $@

test-lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest --numprocesses auto --dist loadgroup \
		tests/integrations/test_matrix.py tests/integrations/test_lightning.py tests/weighting/test_balancer.py

# MMDetection pins old packages
.venv-mmdet/installed: pyproject.toml tests/mmdetection/requirements.txt .venv/installed
	$(PYTHON) -m venv --without-pip .venv-mmdet
	$(BIN)/uv pip install --quiet --python .venv-mmdet/bin/python --editable . -r tests/mmdetection/requirements.txt
	touch $@

test-mmdet: .venv-mmdet/installed
	OMP_NUM_THREADS=1 .venv-mmdet/bin/python -m pytest --numprocesses auto --dist loadgroup tests/mmdetection tests/integrations/test_matrix.py -k mmdet

results: .venv/installed
	$(BIN)/python benchmarks/results.py

clean:
	rm -rf .venv .venv-lowest .venv-mmdet .mypy_cache .ruff_cache .pytest_cache
