# Each of these starts from nothing but Python, make and a package index, and does nothing twice.
#
#   make demo    a photograph becomes an avatar, with its videos, in demo_out/
#   make test    every check; WORKERS=4 for more processes, TESTS=tests/test_style.py for less
#   make docs    the pages, without quarto, in _docs/
#   make sync    bring modules, README.md and the rest in step with the notebooks
#   make pins    resolve constraints.txt anew (needs uv)
#   make clean   remove what these made, except .venv
#
# PYTHON=/path/to/python chooses the interpreter of a new .venv; DEMO='--portrait me.jpg' speaks to the demo.

VENV    := .venv
BIN     := $(VENV)/bin
WORKERS ?= 2
TESTS   ?= tests
SOURCES := settings.ini setup.py constraints.txt
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e

.PHONY: help demo test docs sync pins clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.for-demo
	$(BIN)/spatialavatar0 demo --out demo_out $(DEMO)

test: $(VENV)/.for-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 5 $(TESTS)

docs: $(VENV)/.for-test
	OMP_NUM_THREADS=1 $(BIN)/python tools/docs_check.py _docs

sync: $(VENV)/.for-test
	$(BIN)/python tools/sync.py

pins: $(VENV)/.for-test
	$(BIN)/python tools/pin.py

clean:
	rm -rf _proc _docs build dist demo_out .pytest_cache .hypothesis *.egg-info
	find nbs spatialavatar0 tests tools -name __pycache__ -prune -exec rm -rf {} +

# bin/pip is the last thing that a new environment gets: where it stands, the environment is whole
$(BIN)/pip:
	@usable='import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; \
	for python in $(or $(PYTHON),python3.11 python3.12 python3.10 python3 python); do \
	  if $$python -c "$$usable" 2>/dev/null; then \
	    echo "$(VENV): $$($$python --version), then the requirements: some minutes, once"; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "make: no Python 3.10, 3.11 or 3.12 with venv and pip was found; on Debian: apt install python3-venv;" \
	  "elsewhere: make PYTHON=/path/to/python" >&2; exit 1

$(VENV)/.for-demo: $(SOURCES) | $(BIN)/pip
	$(INSTALL) '.[track]'
	@touch $@

$(VENV)/.for-test: $(SOURCES) | $(BIN)/pip
	$(INSTALL) '.[track,mattes,train,edit,scale,dev]'
	@touch $@ $(VENV)/.for-demo
