# Two commands: `make quickstart` and `make test`. Both make the virtual environment when it is missing or out of date.
#   PYTHON=python3.12   another interpreter (3.11 or 3.12)
#   DEVICE=cuda12|cuda13|tpu   the matching jax; the default is the CPU
#   VENV=DIR            where the environment goes
PYTHON ?= python3
DEVICE ?= cpu
TAG := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV ?= .venv/$(TAG)-$(DEVICE)
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
EXTRA := $(if $(filter-out cpu,$(DEVICE)),"jax[$(DEVICE)]",)
PYTEST := $(PY) -m pytest

.PHONY: help quickstart test test-slow test-torch test-spark test-gcs lint format environment python

help:
	@sed -n '1,4p' Makefile; $(PYTHON) launch.py

quickstart: $(STAMP)
	$(PY) launch.py run --config=configs/quickstart.py --workdir=runs/quickstart

test: $(DEV_STAMP)
	$(PYTEST) -n 2 --dist loadfile -m "not slow and not gpu and not tpu and not network and not torch and not spark and not gcs"

test-slow: $(DEV_STAMP)
	$(PYTEST) -m slow

test-torch: $(DEV_STAMP)
	$(PY) -m pip install -q -r requirements-torch.txt
	$(PYTEST) -m torch

test-spark: $(DEV_STAMP)
	$(PY) -m pip install -q -r requirements-spark.txt
	$(PYTEST) -m spark

test-gcs: $(DEV_STAMP)
	$(PY) -m pip install -q -r requirements-gcs.txt -r requirements-gcs-test.txt
	$(PYTEST) -m gcs

lint: $(DEV_STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(DEV_STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

environment: $(STAMP)

python:
	@case "$(TAG)" in 3.11|3.12) ;; *) echo "error: PYTHON=$(PYTHON) is $(or $(TAG),not there); Python 3.11 or 3.12 is needed (make PYTHON=python3.12 ...)" >&2; exit 2;; esac
	@case "$(DEVICE)" in cpu|cuda12|cuda13|tpu) ;; *) echo "error: DEVICE=$(DEVICE): choose cpu, cuda12, cuda13 or tpu" >&2; exit 2;; esac

$(STAMP): requirements.txt | python
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt $(EXTRA)
	touch $@

$(DEV_STAMP): $(STAMP) requirements-dev.txt
	$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	touch $@
