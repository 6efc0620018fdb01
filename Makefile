# make demo   from nothing to a measured, stylised photograph          make check        ruff, mypy, import-linter
# make test   from nothing to a full test run                          make device-test  the wheel, one runtime, no PyTorch
# PIP_ARGS reaches every pip call, as in: make demo PIP_ARGS="--index-url URL"
# AVSDK_HOME is where toolchains and the build cache live (default: the user's cache folder, avsdk beneath it).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help venv toolchain demo test check device-test bench docs support-table report-schema clean

PYTHON ?= python3.11
PIP_ARGS ?=
export PIP_ARGS
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
EXTRAS := onnxruntime,openvino,litert,media,video,train,export,quantise,search,bench,dev
PIP := $(BIN)/python -m pip
PACKAGES := sdk train export targets bench
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export ORT_DISABLE_TELEMETRY := 1

help:                ## what can be made
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1  - /p' Makefile

venv: $(VENV)/.installed  ## .venv with avsdk and everything that builds and tests it

$(VENV)/bin/python:
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) was not found: install Python 3.11, or name one with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || { echo "$(PYTHON) has no ensurepip: on Debian and Ubuntu, sudo apt-get install python3.11-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install $(PIP_ARGS) -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

toolchain: venv      ## the litert toolchain, which tests and demo use
	avsdk toolchain install litert

demo: venv toolchain  ## export, run and bench zoo:style_transfer/wave on a photograph; pictures and chart in demo/
	python tools/demo.py demo

test: venv toolchain  ## every test; no network but for the tests that install a toolchain
	bash tools/test.sh

check: venv          ## style, types and who imports whom
	ruff check $(PACKAGES) tests tools
	ruff format --check $(PACKAGES) tests tools
	mypy
	lint-imports --no-cache --no-logo

device-test: venv    ## the built wheel and one runtime in an empty venv without PyTorch run a bundle
	bash tools/device_test.sh

bench: venv toolchain  ## the figures of docs/benchmarks.md, measured on this machine
	python bench/numbers/run_all.py --out docs/benchmarks.md

support-table: venv  ## what the doctor says here into the table of README.md
	python tools/support_table.py

report-schema: venv  ## the published schema of a report, from its dataclasses
	python -m avsdk_bench.report_schema

conformance: venv toolchain  ## the ONNX backend suite through every installed engine; writes docs/conformance.md
	python -m tests.conformance --page docs/conformance.md

docs: venv           ## check the pages: every link and every command in them
	pytest -q -p no:cacheprovider tests/test_docs.py

clean:               ## remove what make made, except .venv and toolchains
	rm -rf build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
