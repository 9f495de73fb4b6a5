# Everything runs with the same compiler, flags and target folder, or RocksDB would be built again.
cache := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/palisade
export CARGO_TARGET_DIR ?= $(cache)/target
export CCACHE_DIR ?= $(cache)/ccache
export CCACHE_MAXSIZE ?= 5G
export CARGO_TERM_COLOR ?= auto

# Looked up when a command runs, after setup has installed what was missing.
with = $(if $(shell command -v ccache),CC="ccache gcc" CXX="ccache g++") $(if $(wildcard $(cache)/libclang/clang/native),LIBCLANG_PATH="$(cache)/libclang/clang/native" BINDGEN_EXTRA_CLANG_ARGS="-I$(shell gcc -print-file-name=include)")
nextest = $(shell command -v cargo-nextest)

.PHONY: help setup demo test check fix unit doctest sim bench

help: ## Lists the targets.
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## Installs what is missing to build, and says what and why.
	@.ci/setup

demo: setup ## Three nodes, 20,000 flights, two killed leaders; KEEP=1 leaves them up.
	@echo "building; the first time this compiles RocksDB, about 15 minutes on two cores"
	@$(with) cargo run --quiet --locked -p palisade-server --bin palisade -- demo $(if $(KEEP),--keep) $(ARGS)

test: setup ## Every check and every test.
	@echo "building; the first time this compiles RocksDB, about 15 minutes on two cores"
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory doctest

check: ## Format, lints, docs, and the engine without RocksDB; changes no file.
	cargo fmt --all --check
	@$(with) cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	@$(with) RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	@$(with) cargo clippy --locked -p palisade --no-default-features --quiet -- -D warnings
	@$(if $(shell command -v cargo-deny),cargo deny --all-features check bans licenses sources,echo "cargo-deny is not installed: the tidy test alone holds the dependency rules")

unit:
ifneq ($(nextest),)
	@$(with) cargo nextest run --locked --workspace
else
	@$(with) cargo test --locked --workspace --lib --bins --tests
endif

doctest:
	@$(with) cargo test --locked --workspace --doc

fix: ## Formats the code.
	cargo fmt --all

sim: setup ## A long simulator campaign: SEEDS=10000.
	@$(with) PALISADE_SIM_SEEDS=$(or $(SEEDS),10000) cargo test --locked -p palisade --test simulation -- --nocapture

bench: ## First figures beside etcd; installs etcd-server.
	@.ci/setup etcd-server
	@$(with) cargo run --quiet --locked --release -p palisade-benches --bin load -- $(ARGS)
