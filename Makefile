# Two commands for a fresh clone, each doing the set-up it needs (a virtual environment in .venv):
#   make demo    the main job on a real book and a real chat, offline, on the CPU
#   make test    lint, types, layers and every test; .ci/run calls exactly this
# Others: make lint, make bench, make clean.
#
# HYPERSCENE_PYTHON  the interpreter that builds .venv (3.11 or newer; default: python3)
# HYPERSCENE_VENV    where the environment goes (default: .venv)
# pip's own variables apply. On Linux without a GPU, the smaller CPU build of torch is chosen by
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

HYPERSCENE_PYTHON ?= python3
HYPERSCENE_VENV ?= .venv

BIN := $(HYPERSCENE_VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SETTINGS := pyproject.toml constraints.txt

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

demo: $(HYPERSCENE_VENV)/.installed-all
	$(BIN)/hyperscene demo

test: lint
	$(BIN)/python -m pytest

lint: $(HYPERSCENE_VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(HYPERSCENE_VENV)/.installed-all
	@echo "Benchmarks; run one with: $(BIN)/python -m hyperscene_plugin.bench.NAME --help"
	@$(BIN)/python -c 'import ast, pathlib; \
	[print(f"  {path.stem:24} {(ast.get_docstring(ast.parse(path.read_text())) or str()).splitlines()[0]}") \
	for path in sorted(pathlib.Path("hyperscene_plugin/bench").glob("*.py")) if "__main__" in path.read_text()]'

clean:
	rm -rf $(HYPERSCENE_VENV) .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist

# torch goes in by itself first: the largest download, and the one whose build (CPU, CUDA) the index decides.
$(HYPERSCENE_VENV)/.installed-all: $(BIN)/python $(SETTINGS)
	@echo "Installing hyperscene-plugin[all] into $(HYPERSCENE_VENV) (a few minutes the first time)"
	$(PIP) torch
	$(PIP) --editable ".[all]"
	@touch $@

$(HYPERSCENE_VENV)/.installed-dev: $(HYPERSCENE_VENV)/.installed-all
	$(PIP) --editable ".[dev]"
	@touch $@

$(BIN)/python:
	@$(HYPERSCENE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hyperscene-plugin needs Python 3.11 or newer; $(HYPERSCENE_PYTHON) is $$($(HYPERSCENE_PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make HYPERSCENE_PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(HYPERSCENE_PYTHON) -m venv $(HYPERSCENE_VENV) || { rm -rf $(HYPERSCENE_VENV); \
	  echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
