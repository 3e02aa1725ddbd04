# Everything from a fresh clone with git, make and Python >= 3.11:
#   make demo    a small study on images drawn by code, ends with a report
#   make test    the fast tests
#   make check   all gates: format, lint, types, layers, all tests
#   make fuzz    hostile input, long: FUZZ changes of each kind from SEED on
#   make bench   benchmarks against named peers
#   make evidence DATA=FOLDER   the studies of docs/evidence.md, on isic2019*, ham10000*, chula-rbc*, cric-cervix*, f4k-fish* in FOLDER

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := dev,imagenet
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check lint types layers bench evidence fuzz clean help

help:
	@sed -n '2,/^$$/s/^# *//p' Makefile

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up $(VENV) (once; PyTorch takes a few minutes and about 6 GB)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $(STAMP)

demo: $(STAMP)
	@echo "== a small study on images drawn by code; a minute or two on two idle cores"
	@$(BIN)/moulage demo
	@echo "== open runs/demo/report.html in a browser"

test: $(STAMP)
	@echo "== fast tests"
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu and not real_data"

lint: $(STAMP)
	@echo "== format and lint"
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(STAMP)
	@echo "== types"
	@$(BIN)/pyright

layers: $(STAMP)
	@echo "== layers"
	@$(BIN)/lint-imports

check: lint types layers
	@echo "== all tests"
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu"

bench: $(STAMP)
	@$(BIN)/python benchmarks/run.py

evidence: $(STAMP)
	@test -d "$(DATA)" || { echo "Name the folder that holds the data sets: make evidence DATA=FOLDER"; exit 1; }
	@for recipe in studies/evidence/*.toml; do \
	  name=$$(basename $$recipe .toml); found=; \
	  for each in "$(DATA)"/$${name%-*}*; do \
	    if test -d "$$each" || [[ "$$each" == *.zip ]]; then found="$$each"; break; fi; done; \
	  if test -z "$$found"; then echo "== $$name: no folder or ZIP $${name%-*}* in $(DATA), left out"; continue; fi; \
	  echo "== $$name on $$found"; \
	  $(BIN)/moulage study $$recipe --data "$$found" || exit 1; \
	done

fuzz: $(STAMP)
	@echo "== fuzz: $${FUZZ:-1000} changes from seed $${SEED:-0} on"
	@MOULAGE_FUZZ=$${FUZZ:-1000} MOULAGE_SEED=$${SEED:-0} $(BIN)/python -m pytest -q -n 2 tests/test_fuzz.py tests/test_hostile.py

clean:
	rm -rf $(VENV) .bench .pytest_cache .ruff_cache .hypothesis
