# The two commands are `make demo` and `make test`; both set up the environment first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEMO := workspaces/demo
export OMP_WAIT_POLICY ?= passive
export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; install Python 3.11 or name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: setup
setup: $(STAMP) ## Make the environment from the locked dependencies

.PHONY: demo
demo: $(STAMP) ## Run the whole loop on a simulated world and print what it was worth
	$(BIN)/nba demo $(DEMO)

.PHONY: app
app: $(STAMP) ## Open the app on the demo workspace
	$(BIN)/nba app $(DEMO)

.PHONY: test
test: $(STAMP) ## Lint, types, import contracts, doctests, tests, notebooks (what CI runs)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -n 2 --dist loadfile

.PHONY: notebooks
notebooks: $(STAMP) ## Run every notebook, those included that simulate for a minute
	NBA_SLOW=1 $(BIN)/pytest tests/notebooks

.PHONY: slow
slow: $(STAMP) ## Run what takes half a minute each: Spark clusters of processes, model servers, kills, 3,000 models
	NBA_SLOW=1 $(BIN)/pytest -n 2 --dist loadfile tests/serving tests/pipelines tests/models/test_traverse.py

.PHONY: fix
fix: $(STAMP) ## Format, and mend what the linter can
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

.PHONY: bench
bench: $(STAMP) ## Run every benchmark and write benchmarks/results
	$(BIN)/python -m benchmarks all

PEERS := $(patsubst benchmarks/peers/%.txt,.peers/%/.ready,$(wildcard benchmarks/peers/*.txt))

.PHONY: peers
peers: $(PEERS) ## Make the environments of the peers that benchmarks compare with

.peers/%/.ready: benchmarks/peers/%.txt
	$(PYTHON) -m venv .peers/$*
	.peers/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: docs
docs: $(STAMP) ## Print the references from the code and photograph the app's pages on the demo
	$(BIN)/python -c "from nba.tables import dictionary; print(dictionary(), end='')" > docs/data-dictionary.md
	$(BIN)/python -c "from nba.settings import reference; print(reference(), end='')" > docs/workspace.md
	$(BIN)/python -c "from nba.features.table import describe; print(describe(), end='')" > docs/features.md
	$(BIN)/python -c "import json, pathlib; from nba.serving.contract import schemas; [pathlib.Path('docs/schemas', n).write_text(json.dumps(s, indent=1) + chr(10)) for n, s in schemas().items()]"
	$(BIN)/python docs/screenshots.py $(DEMO)

.PHONY: lock
lock: ## Update requirements.lock (needs uv); Spark is large and stays an extra: pip install '.[spark]'
	uv pip compile pyproject.toml $(addprefix --extra ,auth browser dev matching objects postgres reasons) --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet -o requirements.lock

.PHONY: clean
clean: ## Remove the environment and what was made (workspaces stay)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
