# Two commands do everything on a fresh machine: `make demo` and `make test`. Both first install what is
# missing, and say what and why. `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Settings that every target shares (target folder, compiler, libclang); read after setup, which may
# change what is found.
ENV := . .ci/env

# One profile (dev) for everything but benches, and --workspace wherever RocksDB takes part. Cargo unites
# features over just the packages it is asked for; `-p palisade-server` alone gives a proc macro below
# bindgen fewer of them, and with that another RocksDB to build.

# nextest where it is installed: it runs tests side by side and stops hung ones. It does not run doc examples.
NEXTEST ?= $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
ifeq ($(strip $(NEXTEST)),yes)
TEST_RUN := cargo nextest run --locked
TEST_ALL := --workspace
else
TEST_RUN := cargo test --locked --no-fail-fast
TEST_ALL := --workspace --lib --bins --tests --examples
endif

# Of `make sim`: how many seeds, or which one.
SEEDS ?= 5000
SEED ?=
# The first seed of `make test`: each commit tries others, and always the same.
FROM := $(shell printf '%d' 0x$$(git rev-parse --short=10 HEAD 2>/dev/null || echo 0))
# Of `make fuzz`, for each target; without a TARGET, all of them in turn. Of `make sim-long` too.
SECONDS ?= 60
TARGET ?=
# What `make bench` runs: load, rpc, snapshot, flood, idle, recovery or keys.
BIN ?= load
# Of `make mutants`: recovery, fencing, requests or proposals; without one, all of them in turn.
AREA ?=
# Further words for the command under `make demo` and `make bench`.
ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## install what a build needs and this machine lacks
	@.ci/setup

.PHONY: demo
demo: setup ## three nodes, 20,000 flights, two killed leaders, one check (KEEP=1 leaves it up)
	@$(ENV); cargo build --locked --workspace --bins
	@$(ENV); exec "$$CARGO_TARGET_DIR/debug/palisade" demo $(if $(KEEP),--keep) $(ARGS)

.PHONY: build
build: setup ## build the palisade command
	@$(ENV); cargo build --locked --workspace --bins

.PHONY: where
where: ## the folder of the palisade command
	@$(ENV); echo "$$CARGO_TARGET_DIR/debug"

# With packages of PyPI and the npm registry, so not a part of `make test`.
.PHONY: test-clients
test-clients: ## the README's cluster with certificates, and clients in Python and Node against it
	@.ci/setup clients
	@api/clients/run

.PHONY: test
test: setup check loom ## everything that must hold: make check, make loom, all tests, all doc examples
	@.ci/setup test
	@$(ENV); $(TEST_RUN) $(TEST_ALL)
	@$(ENV); cargo test --locked --workspace --doc --no-fail-fast
	@$(ENV); set -x; cargo test --locked --workspace --features palisade-server/otel --test spans
	@$(ENV); cargo build --locked --workspace --bins
	@$(ENV); set -x; "$$CARGO_TARGET_DIR/debug/palisade-sim" --seeds 300 --from $(FROM)

.PHONY: check
check: setup ## formatting, lints, docs, dependency rules; never edits a file
	cargo fmt --all --check
	@$(ENV); set -x; cargo clippy --locked --workspace --all-targets -- -D warnings
	@$(ENV); set -x; cargo clippy --locked --workspace --features palisade-server/otel --lib --bins --test spans -- -D warnings
	@$(ENV); set -x; cargo clippy --locked -p palisade --no-default-features --all-targets -- -D warnings
	@$(ENV); set -x; cargo clippy --locked -p palisade --no-default-features --lib -- -D warnings
	@$(ENV); set -x; RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --lib
	@$(ENV); set -x; $(TEST_RUN) -p palisade --no-default-features --test tidy
	@set -x; jepsen/zoo/run --check
	@if cargo deny --version >/dev/null 2>&1; then set -x; cargo deny --config .deny.toml check bans licenses sources; fi

.PHONY: fix
fix: ## format the sources
	cargo fmt --all

# Without RocksDB, which no simulation has a use for.
SIM := cargo run --locked --quiet -p palisade-jepsen --bin palisade-sim --

.PHONY: sim
sim: setup ## a campaign of the simulator (SEEDS=5000), or one seed of it, told (SEED=57)
	@$(ENV); set -x; $(SIM) $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

.PHONY: sim-long
sim-long: setup ## the simulator for a given time, from a seed of its own (SECONDS=7200)
	@$(ENV); set -x; $(SIM) --from $$(date +%s)000000 \
		--seconds $(if $(filter command,$(firstword $(origin SECONDS))),$(SECONDS),7200) $(ARGS)

# Hours: every bug is built and run by itself. `make zoo ARGS="07 read"` for some of them.
.PHONY: zoo
zoo: setup ## plant known bugs, each of which the tests must catch (ARGS="07 read")
	@$(ENV); jepsen/zoo/run $(ARGS)

# Half an hour on an idle machine. What survives, and why, stands in jepsen/docs/mutants.md.
.PHONY: mutants
mutants: ## break the code where it must not fail silently; tests must notice (AREA=recovery)
	@.ci/setup mutants
	@$(ENV); .ci/mutants $(AREA)

# The flag changes every crate that is built with it, so the models have a target folder of their own, and
# no package with RocksDB below it may take part.
.PHONY: loom
loom: setup ## threads that meet without a plain lock, in every order of their steps
	@$(ENV); set -x; CARGO_TARGET_DIR="$$CARGO_TARGET_DIR/loom" RUSTFLAGS="--cfg palisade_loom" \
		cargo test --locked -p palisade-wal -p palisade-replication --lib models::

# Every `make test` runs the targets on their corpus and some mutations of it; this is for longer.
.PHONY: fuzz
fuzz: setup ## feed what reads bytes with broken ones (TARGET=wal/directory SECONDS=600)
	@.ci/fuzz "$(SECONDS)" "$(TARGET)"

.PHONY: bench
bench: ## figures beside a peer on the same disk; installs etcd-server (BIN=rpc, snapshot, flood, idle, recovery, keys)
	@.ci/setup bench
	@$(ENV); set -x; cargo run --locked --release -p palisade-benches --bin $(BIN) -- $(ARGS)

# A package with a lock file of its own, so that no other target compiles the peers' clients and engines. Without
# --locked: what our own crates come to depend on is added to that file.
.PHONY: bench-peers
bench-peers: ## the same load on etcd, ZooKeeper, NATS, Redis and others, which it installs (ARGS="--runs 1 --seconds 2")
	@.ci/setup peers
	@$(ENV); export PATH="$$palisade_cache/peers:$$PATH"; set -x; \
		cargo run --release --manifest-path benches/peers/Cargo.toml -- $(ARGS)
