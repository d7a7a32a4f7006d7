# `make` lists the targets. Variables: PYTHON (of the virtual environment), CONCEPT, WORKERS and ARGS, e.g.
#   make demo CONCEPT=bird ARGS="--limit 50"        make test ARGS="tests/corpus -x"
PYTHON ?= python3
CONCEPT ?= car
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TYPED := engine schemas jobs

.DEFAULT_GOAL := help
.PHONY: help setup demo distill-demo test test-chaos lint clean

help: ## list these targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make the virtual environment .venv with the pinned dependencies (PYTHON=python3.12 chooses another Python)
	@echo "Ready: $(VENV) has what pyproject.toml and deploy/constraints.txt ask for."

demo: $(STAMP) ## label the bundled corpus on a local Ray cluster (CONCEPT=bird, ARGS="--limit 50"); run again, it resumes
	@PATH="$(CURDIR)/$(BIN):$$PATH" deploy/demo.sh label --concept "$(CONCEPT)" --profile fast --steps 150 $(ARGS)

distill-demo: $(STAMP) ## go on to synthetic images, a segmenter and its evaluation, with small budgets (CONCEPT=bird)
	@PATH="$(CURDIR)/$(BIN):$$PATH" deploy/demo.sh distill --concept "$(CONCEPT)" --profile fast --steps 150 \
	    --run "$${MASKMINE_HOME:-$$HOME/.maskmine}/runs/$(CONCEPT)-distilled" --synthesis.count 200 \
	    --training.steps 400 --training.width 16 --training.crop 64 --training.short-side 64 $(ARGS)

test: $(STAMP) ## run the tests, two at a time (WORKERS=0: one, ARGS="tests/corpus -x"); those that need a GPU: ARGS="-m gpu"
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

test-chaos: $(STAMP) ## run the tests that kill nodes, workers and drivers at random moments, and watch the memory
	$(BIN)/python -m pytest -m chaos $(ARGS)

lint: $(STAMP) ## check style, types, and for what is known to be insecure
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml $(TYPED)

clean: ## remove the virtual environment, caches and build leftovers (never labels)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(TYPED) tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp is written last: whatever was interrupted is done again. An environment that is broken, half made, or of
# another Python than the one asked for is made anew; else pip only changes what differs.
$(STAMP): pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null || { \
	    echo "maskmine needs Python 3.10 to 3.14; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not found)." \
	         "Name another one: make setup PYTHON=python3.11" >&2; exit 1; }
	@version='import sys; print(sys.version_info[:2])'; \
	if [ "$$($(BIN)/python -c "import pip; $$version" 2>/dev/null)" != "$$($(PYTHON) -c "$$version")" ]; then \
	    echo "Making the virtual environment $(VENV) ..."; \
	    $(PYTHON) -m venv --clear $(VENV); \
	fi
	@echo "Installing the dependencies into $(VENV) (the first time a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[dev,onnx,s3]'
	@touch $@
