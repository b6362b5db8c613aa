# `make up` and `make test` need nothing but a Debian or Ubuntu machine: they install what is missing, with apt where
# the machine lacks it (as root, or with sudo) and into .venv.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PROGRAMS := $(VENV)/.programs
PYTHON ?=
DIR ?= $(CURDIR)/run/cluster
MOUNT ?= $(CURDIR)/run/mnt
DATANODES ?= 4
WORKERS ?= $(shell cores=$$(nproc); echo $$(((cores > 8 ? 8 : cores) + 2)))
REPLICAS ?= 3

.PHONY: help compiled up down test lint types unit format bench deb install clean

help:
	@echo "make up      start a local cluster, mount it where FUSE is, say what to try"
	@echo "make down    stop it; its data stays in $(DIR)"
	@echo "make test    lint, types, every test"
	@echo "make format  format the code"
	@echo "make bench   measure: transport, NameNode, whole files beside cp"
	@echo "make deb     build a Debian package into dist/, for machines without a compiler"
	@echo "make install install that package here"
	@echo "make clean   remove the cluster, its data and .venv"

# Each command and daemon starts a third faster than where Python compiles them anew each time: where it may not write
# what it has compiled, as users beside root, or as PYTHONDONTWRITEBYTECODE has it.
compiled: $(INSTALLED)
	@$(BIN)/python -m compileall -q dfs nodes mount tests

up: compiled
	@if [ -c /dev/fuse ] && [ "$$(id -u)" = 0 ] && $(BIN)/python -c "import pyfuse3" 2>/dev/null; then mount=1; fi; \
	$(BIN)/dfs up --dir "$(DIR)" --datanodes $(DATANODES) --replicas $(REPLICAS) $${mount:+--mount "$(MOUNT)"}

down: $(INSTALLED)
	@$(BIN)/dfs down --dir "$(DIR)"

test: lint types unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED)
	$(BIN)/mypy

# Many tests wait for timeouts: with two workers more than processors none is idle. Tests of a file share its cluster. In the
# order of their directories the quick ones, of tests/unit, come last: no worker is left alone with a long one.
unit: compiled $(PROGRAMS)
	$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

format: $(INSTALLED)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python -m tests.bench.rpc
	$(BIN)/python -m tests.bench.namenode
	$(BIN)/python -m tests.bench.fsck
	$(BIN)/python -m tests.bench.transfer

clean:
	@if [ -x $(BIN)/dfs ]; then $(BIN)/dfs down --dir "$(DIR)"; fi
	rm -rf $(VENV) run build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache

deb: $(INSTALLED)
	@packaging/deb dist

# apt takes a name with a slash for a file.
install: $(INSTALLED)
	@package=$$(packaging/deb dist) && .ci/as-root apt-get install --yes --reinstall "./$$package"

$(INSTALLED): setup.cfg pyproject.toml
	@PYTHON="$(PYTHON)" .ci/install $(VENV)
	@touch $@

# What tests run on mounts.
$(PROGRAMS): $(INSTALLED)
	@PYTHON="$(PYTHON)" .ci/install $(VENV) git make rsync fio stress-ng ip mkfs.ext4 debootstrap systemd-nspawn
	@touch $@
