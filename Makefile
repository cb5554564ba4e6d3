# chopmark's commands. The first one that needs it builds .venv; later ones find it ready.
# `make help` lists them. A choice is made on the command line:
#   make demo DEMO_ARGS=--once     make test TEST_ARGS="tests/events -x"     make PYTHON=python3.13 demo

VENV := .venv
# Pinned here and in pyproject.toml, and in no constraints: where no build without CUDA is at hand, a
# resolver takes several GB of it along. Tried in turn: a file at hand, PyTorch's own index, any.
TORCH := torch==2.13.0
PEERS := .venv-peers
BIN := $(VENV)/bin
UV := UV_BIN=$(BIN) scripts/uv
INSTALL := $(UV) pip install --compile-bytecode -c constraints.txt --build-constraints constraints.txt

# The first interpreter that starts and is new enough; a recursive variable, so that only set-up asks.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test check bench format constraints clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.product ## Simulate, train, replay, print the results, then serve (DEMO_ARGS=--once ends by itself).
	@$(BIN)/chopmark demo $(DEMO_ARGS)

test: $(VENV)/.test ## Run the tests (TEST_ARGS goes to pytest), then the examples in the docstrings.
	@$(BIN)/pytest -n 2 --dist worksteal $(TEST_ARGS)
	@$(BIN)/pytest --doctest-modules src

check: $(VENV)/.lint ## Check format, style, types and the import contract.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.test $(PEERS)/.ready ## Measure; ratios to named rivals, side by side (BENCH_ARGS chooses).
	@$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

format: $(VENV)/.lint ## Format the code and mend what ruff can mend.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

constraints: $(BIN)/uv ## Choose the newest versions anew and write them to constraints.txt.
	@$(UV) pip compile pyproject.toml --extra boost --extra onnx --extra vw --group setup --group test --group lint --quiet --upgrade \
		--universal --python-version 3.11 --prerelease disallow \
		--no-emit-index-url --no-header --no-annotate -o $(VENV)/constraints.txt
	@{ echo "# Written by \`make constraints\`."; cat $(VENV)/constraints.txt; } >constraints.txt

clean: ## Remove the environments, the caches and the built packages.
	@rm -rf $(VENV) .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache .benchmarks
	@find src tests recipes benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Set-up: one stamp per layer, newer than the files that it was made from.

$(BIN)/uv:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "chopmark needs Python 3.11 or newer; $(or $(PYTHON),nothing from python3.11 to python3) is" \
		"not. Install one, or name it: make PYTHON=/path/to/python"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; \
		exit 1; } >&2
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

$(VENV)/.product: pyproject.toml constraints.txt scripts/uv | $(BIN)/uv
	@echo "installing chopmark"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.product
	@echo "installing what the tests need, all extras among it"
	@$(INSTALL) -e '.[boost,onnx,vw]' --group test
	@$(INSTALL) '$(TORCH)+cpu' 2>/dev/null || $(INSTALL) --torch-backend cpu '$(TORCH)' 2>/dev/null || \
		$(INSTALL) '$(TORCH)'
	@touch $@

$(VENV)/.lint: $(VENV)/.product
	@echo "installing what the checks need"
	@$(INSTALL) --group lint
	@touch $@

# Rivals are measured from an environment of their own: the product never depends on them.
$(PEERS)/.ready: benchmarks/peers.txt | $(BIN)/uv
	@echo "installing the rivals of the benchmarks into $(PEERS)"
	@test -x $(PEERS)/bin/python || $(BIN)/python -m venv --without-pip $(PEERS)
	@$(UV) pip install --python $(PEERS)/bin/python --compile-bytecode -r benchmarks/peers.txt
	@touch $@
