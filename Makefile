# Two commands: `make demo` shows the whole way, `make test` runs every check.
PYTHON ?= python3
BIN := .venv/bin
# tests start many processes: let Python keep what it has compiled for the next one
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test fuzz lint types unit test-lowest test-mmdet docs package results clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[train,cjk,export,video,timm,ray,ultralytics,docs,dev]'
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

# FUZZ=1000000 make fuzz: so many data sets changed at random, others each time
fuzz: .venv/installed
	FUZZ=$${FUZZ:-100000} OMP_NUM_THREADS=1 $(BIN)/pytest tests/data/test_fuzz_readers.py

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
	OMP_NUM_THREADS=1 .venv-mmdet/bin/python -m pytest --numprocesses auto --dist loadgroup \
		tests/mmdetection tests/integrations/test_matrix.py tests/test_docstrings.py -k "mmdet or mmengine"

# into build/site
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# sdist and wheel, each tried in an environment of its own: with torch alone, and with all that trains
package: .venv/installed
	rm -rf dist build/core build/train
	$(BIN)/uv build --quiet
	$(BIN)/uv tool run --quiet twine check --strict dist/*
	$(PYTHON) -m venv --without-pip build/core
	$(BIN)/uv pip install --quiet --python build/core/bin/python dist/*.tar.gz
	cd build && core/bin/python -c 'import torch, scalewise as sw; \
		balancer = sw.LossBalancer(["cat", "dog"], by="class"); \
		balancer(torch.ones(3, requires_grad=True), torch.ones(2)).backward(); \
		print("torch alone:", sw.__version__, balancer.weights.tolist())'
	$(PYTHON) -m venv --without-pip build/train
	$(BIN)/uv pip install --quiet --python build/train/bin/python "$$(ls dist/*.whl)[train]"
	cd build/train && bin/scalewise train --data demo:images=10,size=64 --backbone mobilenet_v3_small \
		--width 16 --depth 1 --size 64 --epochs 1 --workers 0 --progress plain
	ls -l dist

results: .venv/installed
	$(BIN)/python benchmarks/results.py

clean:
	rm -rf .venv .venv-lowest .venv-mmdet .mypy_cache .ruff_cache .pytest_cache build dist
