# make reproduce    everything: environment, built-in world, every notebook; its tables and figures under build/
#                   (PROFILE=full for every seed, which renews reidnb/results; DATASET=market1501)
# make test         the environment, then every test, the notebooks included
# make lab          open the notebooks
# make book         the notebooks as web pages, with an API reference: build/book/index.html
# make measured     the other tables of reidnb/results: hours
# make TORCH=cpu ...  the first time: torch without CUDA, a third of the size

PROFILE ?= quick
DATASET ?= synthetic
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PYTHON ?= python3
TORCH ?=
TORCH_CPU = https://download.pytorch.org/whl/cpu
BIN = .venv/bin
UV = $(BIN)/uv pip install -q --python $(BIN)/python

MEASURED = partial strangers video motion moved pose_normalised pseudo_labels camera_pair stargan_film

.PHONY: reproduce test lint lab notebooks book pretrain tables measured clean

reproduce: .venv/ready
	$(BIN)/python workflow/reproduce.py --profile $(PROFILE) --dataset $(DATASET) --cores $(CORES)

test: .venv/ready
	$(BIN)/pytest -n $(CORES) --dist loadfile  # a file, or a notebook, to a core

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: .venv/ready
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" notebooks/00_start_here.ipynb

notebooks: .venv/ready  # run them in place, and renew figures/: what is committed
	$(BIN)/python -m reidnb draw
	REIDNB_FIGURES=figures $(BIN)/python workflow/commit_notebooks.py

book: .venv/ready  # the notebooks as they are committed, and the API reference, as pages
	$(BIN)/python -m sphinx -b html -c docs -d build/book.doctrees -q -W --keep-going . build/book
	@echo "reidnb: the book lies in build/book/index.html"

pretrain: .venv/ready
	$(BIN)/python -m reidnb pretrain small
	$(BIN)/python -m reidnb pretrain small_xception

tables: .venv/ready
	$(BIN)/python -m reidnb tables

measured: .venv/ready  # reidnb/results beside the runs': hours; most rows that are there already are not made again
	for script in $(MEASURED); do $(BIN)/python workflow/$$script.py || exit 1; done
	$(BIN)/python -m reidnb styles

# uv first, pip where it is not to be had. The two wheels from torch's own index, the rest from the ordinary one.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reidnb needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@echo "reidnb: making .venv ($(if $(filter cpu,$(TORCH)),about 2 GB,about 6 GB with torch's CUDA build; make TORCH=cpu takes 2); a minute on a fast line)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check uv || echo "reidnb: no uv here: pip does its work, slower"
ifeq ($(TORCH),cpu)
	@UV_HTTP_TIMEOUT=30 UV_HTTP_RETRIES=1 $(UV) --no-deps --default-index $(TORCH_CPU) torch torchvision >.venv/torch.log 2>&1 \
	|| $(BIN)/pip install -q --retries 0 --timeout 30 --no-deps --index-url $(TORCH_CPU) torch torchvision >>.venv/torch.log 2>&1 \
	|| true
	@$(BIN)/python -c 'import sys; from importlib.metadata import version; sys.exit(sys.platform == "linux" and "+cpu" not in version("torch"))' 2>/dev/null \
	|| echo "reidnb: no CPU build of torch from $(TORCH_CPU) (.venv/torch.log says why): the ordinary one, 6 GB, serves"
endif
	@$(UV) -e '.[test]' || $(BIN)/pip install -e '.[test]'
	@touch .venv/ready

clean:
	rm -rf build .pytest_cache .ruff_cache .snakemake
