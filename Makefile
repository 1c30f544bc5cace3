# make demo, make test: on a machine with Python >= 3.11 and make. Each makes the environment it needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
LOWEST ?= .venv-lowest
HOSTS ?= .venv-hosts
BIN = $(VENV)/bin
DEMO ?= demo-output
PYTEST_ARGS ?= -n 2
SUITE2P_TESTS = test-host-suite2p-1 test-host-suite2p-0.14

.PHONY: help demo test test-lowest test-hosts $(SUITE2P_TESTS) test-host-elsewhere lint lint-page benchmarks clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/run.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,web,matlab,movie,plots,minian,nwb,dask,parquet]"
	touch $@

$(VENV)/dev.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

# Without the extras: `matlab` needs NumPy 2, and what `movie` brings has lowest versions of its own.
$(LOWEST)/test.stamp: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c tests/lowest.txt -e ".[test,web]"
	touch $@

# Every package pinned, none resolved: see the files.
$(HOSTS)/suite2p-%/test.stamp: tests_hosts/suite2p-%.txt pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $< -e ".[test]"
	touch $@

$(HOSTS)/elsewhere/test.stamp: tests_hosts/elsewhere.txt pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< -e ".[test]"
	touch $@

demo: $(VENV)/run.stamp ## curate three real results with a simulated annotator (copies, in demo-output/)
	rm -rf $(DEMO)
	$(BIN)/actsort demo --data examples/data --out $(DEMO)

test: $(VENV)/test.stamp ## all tests, newest versions of all dependencies
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The browser sees the same page whatever the versions are (the server's own tests are among those that run), and how well is sorted was measured.
test-lowest: $(LOWEST)/test.stamp ## all tests but those in the browser and of the engine's figures, lowest allowed versions
	$(LOWEST)/bin/python -m pytest $(PYTEST_ARGS) -m "not newest" --ignore-glob "tests/test_page_*"

test-hosts: $(SUITE2P_TESTS) test-host-elsewhere ## against the real Suite2p 1.x and 0.14, pipeline and window, and Snakemake (5 GB of packages, ten minutes)

# One of them. Every host is installed, so a test that skips because one is missing fails.
HOST_TESTS = -m pytest -p tests_hosts.no_skips $(PYTEST_ARGS)

$(SUITE2P_TESTS): test-host-%: $(HOSTS)/%/test.stamp
	$(<D)/bin/python $(HOST_TESTS) --dist loadfile tests_hosts

test-host-elsewhere: $(HOSTS)/elsewhere/test.stamp
	$(<D)/bin/python $(HOST_TESTS) tests/test_elsewhere.py -k "Snakemake or roiextractors"

lint: $(VENV)/dev.stamp ## style, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

node_modules/.stamp: package.json
	npm install --silent
	touch $@

lint-page: node_modules/.stamp ## types and style of the page's JavaScript (needs Node.js 20 or newer; running the page does not)
	npm run --silent check

benchmarks: $(VENV)/test.stamp ## what is measured; more of it where ACTSORT_BENCHMARK_DATA names a folder of annotated .mat files (half an hour)
	$(BIN)/python benchmarks/features.py
	$(BIN)/python benchmarks/movie_labels.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/page.py
	$(BIN)/python benchmarks/sorting.py
	$(BIN)/python benchmarks/learning.py --no-rivals
	$(BIN)/python benchmarks/few_features.py
ifneq ($(ACTSORT_BENCHMARK_DATA),)
	$(BIN)/actsort benchmark $(ACTSORT_BENCHMARK_DATA)/*.mat
	$(BIN)/python benchmarks/engine.py $(ACTSORT_BENCHMARK_DATA)/*.mat --seeds 3
	$(BIN)/python benchmarks/quality.py $(ACTSORT_BENCHMARK_DATA)/*.mat
	$(BIN)/python benchmarks/stopping.py $(ACTSORT_BENCHMARK_DATA)/*.mat
	$(BIN)/python benchmarks/people.py
	$(BIN)/python benchmarks/apply.py $(ACTSORT_BENCHMARK_DATA)/*.mat
endif

clean: ## remove environments and caches
	rm -rf $(VENV) $(LOWEST) $(HOSTS) $(DEMO) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis node_modules test-artefacts
