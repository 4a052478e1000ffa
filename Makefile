# make reproduce    everything: environment, built-in world, every notebook, figures, tables   (PROFILE=full for every seed; DATASET=market1501)
# make test         the environment, then every test, the notebooks included
# make lab          open the notebooks

PROFILE ?= quick
DATASET ?= synthetic
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PYTHON ?= python3
BIN = .venv/bin

.PHONY: reproduce test lint lab notebooks pretrain tables clean

reproduce: .venv/ready
	$(BIN)/python workflow/reproduce.py --profile $(PROFILE) --dataset $(DATASET) --cores $(CORES)

test: .venv/ready
	$(BIN)/pytest -n $(CORES) --dist loadfile  # a file, or a notebook, to a core

lint: .venv/ready
	$(BIN)/ruff check .

lab: .venv/ready
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" notebooks/00_start_here.ipynb

notebooks: .venv/ready  # run them in place: what is committed
	$(BIN)/python -m reidnb draw
	$(BIN)/python workflow/commit_notebooks.py

pretrain: .venv/ready
	$(BIN)/python -m reidnb pretrain small
	$(BIN)/python -m reidnb pretrain small_xception

tables: .venv/ready
	$(BIN)/python -m reidnb tables

.venv/ready: pyproject.toml
	@echo "reidnb: making .venv (about 6 GB with torch's CUDA build; a minute on a fast line)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reidnb needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[test]' || $(BIN)/pip install -e '.[test]'
	@touch .venv/ready

clean:
	rm -rf build .pytest_cache .ruff_cache .snakemake
