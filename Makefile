# The project's few commands. `make` alone lists them.
#
# Python 3.11 or newer is found as `python3`; name another with PYTHON=/path/to/python. Everything goes into
# .venv; two stamp files there say what has been installed, so that calling again costs nothing.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
TESTS  := $(VENV)/.installed-tests

# How many processes the tests are spread over: one more than there are cores, since many tests wait for programs,
# disks and time-outs; `make test JOBS=0 ARGS="-k fio -x"` runs some of them in one process.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1) + 1)
ARGS ?=
# `make soak` simulates for so long, on so many processes, seeds from these; then it does everything else that is long.
MINUTES ?= 20
SEEDS ?= 0:1000000
SOAK_JOBS ?= 2
# `make bench SCALE=quick` takes a few minutes, SCALE=fair twenty, the full one more than an hour.
SCALE ?= full

.PHONY: help setup setup-tests demo test prepared soak bench lint format foreign clean

help:
	@echo "make setup     .venv with revolume in it"
	@echo "make demo      what it does, shown on a real file system in under a minute"
	@echo "make test      every test (installs foreign NBD clients through apt where it may)"
	@echo "make soak      every crash and fault at length, and docs/proof/report.md (MINUTES=20 SEEDS=0:1000000)"
	@echo "make bench     the table beside qemu-nbd and nbdkit (SCALE=quick or fair for a short one)"
	@echo "make lint      ruff and mypy (make format repairs what can be repaired)"

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "revolume needs Python 3.11 or newer; '$(PYTHON)' is not: name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python cannot make virtual environments: install the package python3-venv, or name another Python with PYTHON=." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(RUN)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(TESTS): pyproject.toml | $(RUN)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $(STAMP) $@

setup: $(STAMP)

setup-tests: $(TESTS)

demo: $(STAMP)
	$(RUN) -m demo

# Continuous integration has no other step: there the findings of `make lint` fail the tests. What pip and apt fetch
# is fetched at once.
test:
	@$(MAKE) --no-print-directory -j 3 prepared
	$(RUN) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

prepared: $(if $(CI),lint) $(TESTS) foreign
	@:

soak: $(TESTS) foreign
	$(RUN) -m revolume.sim.campaigns.report --begin
	-$(RUN) -m revolume.sim --seeds $(SEEDS) --minutes $(MINUTES) --jobs $(SOAK_JOBS) --part
	-$(RUN) -m revolume.sim --planted --jobs $(SOAK_JOBS) --part
	-$(RUN) -m revolume.sim.campaigns.every_byte --jobs $(SOAK_JOBS)
	-$(RUN) -m revolume.sim.campaigns.call_failures --jobs $(SOAK_JOBS)
	REVOLUME_SOAK=1 $(RUN) -m pytest -m soak --timeout 7200 $(ARGS) || \
	  $(RUN) -m revolume.sim.campaigns.report --failed "make soak: pytest -m soak"
	$(RUN) -m revolume.sim.campaigns.report

bench: $(TESTS) foreign
	$(RUN) -m bench --scale $(SCALE) $(ARGS)

lint: $(TESTS)
	$(RUN) -m ruff check src tests bench demo
	$(RUN) -m mypy

format: $(TESTS)
	$(RUN) -m ruff check --fix src tests bench demo
	$(RUN) -m ruff format src tests bench demo

foreign:
	@tools/foreign.sh

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .bench .demo .proof
