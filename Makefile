# Every target does its own set-up on a fresh Debian machine (as root; Rust is presumed).
#
#   make demo [SCENARIO=basic] [IPIP=Always|CrossSubnet|Never] [KEEP=1]
#                        nodes, pods, a real BIRD; every claim checked and printed
#   make demo-clean      remove what KEEP=1 left
#   make test            everything that must hold: build, lint, every test
#   make lint            format, clippy, dependencies
#   make fuzz [FUZZ_SECONDS=60] [FUZZ_TARGET=…]
#                        each fuzz target for that long
#   make deps            only the set-up
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export PATH := $(HOME)/.cargo/bin:$(PATH)

SCENARIO ?= basic
IPIP ?=
KEEP ?=
FUZZ_SECONDS ?= 60
FUZZ_DIR := bench/fuzz
FUZZ_TARGET ?= $(basename $(notdir $(wildcard $(FUZZ_DIR)/targets/*.rs)))
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

# libFuzzer's coverage instrumentation, with a stable compiler: the same passes cargo-fuzz asks for,
# without the sanitizers (the code under test is safe Rust, overflow checks and asserts are on).
FUZZ_RUSTFLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks

.PHONY: help demo demo-clean test lint fuzz fuzz-check deps

help:
	@sed -n 's/^# \{0,1\}//p;/^SHELL/q' Makefile

demo:
	@.ci/setup devices
	@cargo build --release --package vrouter --package bench
	@target/release/bench demo --scenario $(SCENARIO) $(if $(IPIP),--ipip $(IPIP)) $(if $(KEEP),--keep)

demo-clean:
	@.ci/setup devices
	@cargo build --release --package bench
	@target/release/bench demo-clean

# The tests come last and all of them run, so that what cargo says of them ends the log; what came
# before them still counts.
test:
	@.ci/setup devices lint
	@failed=; $(MAKE) lint fuzz-check || failed=yes; \
	cargo build --workspace && cargo test --workspace --no-fail-fast && [[ -z $$failed ]]

lint:
	@.ci/setup lint
	cargo fmt --all --check
	cargo fmt --manifest-path $(FUZZ_DIR)/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --log-level error check bans licenses sources

fuzz-check:
	@.ci/setup build
	cargo check --manifest-path $(FUZZ_DIR)/Cargo.toml --target-dir target

fuzz:
	@.ci/setup build
	@RUSTFLAGS="$(FUZZ_RUSTFLAGS)" cargo build --release --manifest-path $(FUZZ_DIR)/Cargo.toml --target $(HOST)
	@cd $(FUZZ_DIR); for target in $(FUZZ_TARGET); do \
	  echo "== $$target for $(FUZZ_SECONDS) s"; \
	  mkdir -p corpus/$$target artifacts/$$target; \
	  target/$(HOST)/release/$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 \
	    -artifact_prefix=artifacts/$$target/ -print_final_stats=1 corpus/$$target $$(ls -d seeds/$$target 2>/dev/null); \
	done

deps:
	@.ci/setup devices lint
