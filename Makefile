# Everything a newcomer needs: make demo, make test. See CONTRIBUTING.md for the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-engines soak corpus fuzz check bench docs samples catalogue clean

setup: $(STAMP)

# Compiled once: where Python may not keep what it compiles, every start would do it again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Adaptrix needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m compileall -q $(CURDIR)/src/adaptrix/*/
	@touch $@

demo: setup
	$(BIN)/adaptrix demo

test: setup
	$(BIN)/python -m pytest -q

test-engines: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,engines,quantised]"
	$(BIN)/python -m pytest -q tests/engines tests/loader/test_quantised.py

soak: setup
	ADAPTRIX_SOAK=1 $(BIN)/python -m pytest -q tests/e2e/test_crash.py tests/e2e/test_soak.py

# One row per adapter of ADAPTRIX_CORPUS, a folder with adapters/ and configs/.
corpus: setup
	@$(BIN)/python tests/corpus/table.py "$(ADAPTRIX_CORPUS)"

FUZZ_SECONDS ?= 60
FUZZ_CORPUS ?= .fuzz
fuzz: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,fuzz]"
	for target in safetensors gguf npz pickle config pattern; do \
		$(BIN)/python tests/fuzz/campaign.py $$target $(FUZZ_SECONDS) $(FUZZ_CORPUS) || exit 1; done

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

bench: setup
	for script in $(wildcard benchmarks/*.py); do $(BIN)/python $$script || exit 1; done

docs: setup
	$(BIN)/python docs/generate.py

catalogue: setup
	$(BIN)/python -m adaptrix.loader.catalogue

samples: setup
	$(BIN)/python -m adaptrix.samples.train

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist build
