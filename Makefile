# Every target does its own set-up; nothing is installed where nothing is missing.
SHELL = /bin/sh
BIN = .venv/bin
# Boxes that the tests build. Kept between runs: a second `make test` does not build them again.
export DEVBOX_TEST_CACHE ?= $(CURDIR)/.cache/tests
# In this order, so that what is quick fails first. `make test TESTS=tests/unit PYTEST='-k ports'` runs a part.
TESTS = $(wildcard tests/test_*.py) tests/unit tests/guest tests/e2e
PYTEST =
quoted = '$(subst ','\'',$(1))'
# `make bench BENCH='--only B10,B13'` measures a part.
BENCH =

.PHONY: help setup test lint demo bench clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## Install what is missing: programs, and devbox with its test tools into .venv.
	@tools/setup test

test: lint  ## Check everything: lint, types, unit tests, and tests on booted machines.
	@PYTEST=$(call quoted,$(PYTEST)) tools/test $(TESTS)

lint: setup  ## Check format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

demo:  ## See it work: build a box, boot and provision examples/hello, fetch its page.
	@tools/setup run
	@tools/demo

bench: setup  ## Measure speed against plain QEMU, ssh and curl, and print the table.
	$(BIN)/python -m tests.bench $(BENCH)

clean:  ## Delete the demo's machine, .venv, caches and build leftovers. Your store of boxes stays.
	@tools/clean
