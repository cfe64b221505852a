# Everything that is done with this repository. `make help` lists it.

.DEFAULT_GOAL := help
.PHONY: help setup setup-build build demo test test-long lint bench doc fuzz fuzz-guided simulate clean

SHELL := /usr/bin/env bash
target := $(or $(CARGO_TARGET_DIR),target)

# RocksDB is C++: a compiler cache makes it a matter of seconds after the first time. It is found through PATH and not set as
# CC and CXX: cargo would compile all C++ again whenever those come or go, as when somebody calls cargo by hand. Looked for
# when a recipe runs, since `setup` may just have installed it.
cache = $(firstword $(wildcard /usr/lib/ccache/bin /usr/lib64/ccache /usr/lib/ccache))
cargo = $(if $(cache),PATH="$(cache):$$PATH" )cargo

# Built whole: what is kept for incremental builds at times doesn't fit the next commit, and then nothing links. Who compiles all
# day long calls cargo by hand.
export CARGO_INCREMENTAL ?= 0

# What end-to-end tests, the demo and the benchmarks start.
programs := -p barnraiser-node -p barnraiser-bootstrap -p barnraiser-tests -p barnraiser-simulations --bins

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '%-18s %s\n' "$$name" "$$text"; done

setup: ## installs what is missing to build and test (Debian and Ubuntu; elsewhere it says what is missing)
	@.ci/setup

setup-build:
	@.ci/setup build

build: setup-build ## the programs, into target/debug
	$(cargo) build $(programs)

demo: build ## a whole network on this machine, on real sources, narrated
	$(target)/debug/barn demo

test: setup ## all tests but the long ones
	$(cargo) build $(programs)
	$(cargo) nextest run --workspace
	$(cargo) test --workspace --doc --quiet

test-long: setup ## all tests, the long ones too (hours)
	$(cargo) build $(programs)
	BARN_LONG=1 $(cargo) nextest run --workspace --profile long

lint: setup ## format, clippy with warnings denied, the rules of the house (tests/tests/tidy.rs)
	$(cargo) fmt --all --check
	$(cargo) clippy --workspace --all-targets -- --deny warnings
	$(cargo) nextest run -p barnraiser-tests --test tidy

bench: setup-build ## figures, as a table and into target/bench: AREA=dispatch|difference|idle|engine|simulation|store|swarm or all
	$(cargo) build $(programs)
	$(target)/debug/barn-bench $(AREA)

doc: ## the book (with mdbook) and the reference of the code
	@if command -v mdbook >/dev/null; then mdbook build docs --dest-dir "$$(realpath -m $(target))/book" && echo "the book: $(target)/book/index.html"; \
	else echo "mdbook is not installed, so there is no book: 'cargo install --locked mdbook' brings it; its pages are readable as they are in docs/src"; fi
	$(cargo) doc --workspace --no-deps
	@echo "the reference: $(target)/doc/barnraiser_protocol/index.html"

fuzz: setup-build ## foreign bytes against all that reads them, SECONDS=60 for each of thirteen targets, or for TARGET=record alone
	$(cargo) run -p barnraiser-fuzz -- $(or $(SECONDS),60) $(TARGET)

# New inputs go into the target folder; what breaks a property goes into the corpus, where a test replays it.
fuzz-guided: setup-build ## the same, guided by coverage; needs a nightly compiler and cargo-fuzz ('cargo install cargo-fuzz')
	$(cargo) +nightly fuzz build --fuzz-dir tests/fuzz --target-dir $(target)/fuzz guided
	@for name in $(or $(TARGET),$(notdir $(wildcard tests/fuzz/corpus/*))); do \
		mkdir -p $(target)/fuzz/inputs/$$name; echo "fuzzing $$name"; \
		BARN_FUZZ_TARGET=$$name $(cargo) +nightly fuzz run --fuzz-dir tests/fuzz --target-dir $(target)/fuzz guided \
			$(target)/fuzz/inputs/$$name tests/fuzz/corpus/$$name -- -max_total_time=$(or $(SECONDS),60) -timeout=10 -rss_limit_mb=2048 \
			-artifact_prefix=tests/fuzz/corpus/$$name/ -print_final_stats=1 -verbosity=0 || exit 1; \
	done

# As many seeds as the scenario is judged by, unless SEEDS says otherwise.
scenario := $(or $(SCENARIO),faults)
seeds_of_faults := 1000
seeds_of_nightly := 20
# Gigabytes of small things, touched in no order: with large pages a night takes three quarters of the time.
simulate: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
simulate: setup-build ## simulated networks: SCENARIO=faults|calm|nightly|scale|trust NODES=100 SEED=1 SEEDS=1000 (faults) JOBS=2 BUILDERS=200 (scale) BRANCHES=1 (trust) WORKLOAD=FILE PLOTS=DIR
	$(cargo) run --release -p barnraiser-simulations -- $(scenario) --nodes $(or $(NODES),100) --seed $(or $(SEED),1) \
		--seeds $(or $(SEEDS),$(seeds_of_$(scenario)),1) --jobs $(or $(JOBS),$(shell nproc)) $(if $(WORKLOAD),--workload $(WORKLOAD)) \
		$(if $(BUILDERS),--builders $(BUILDERS)) $(if $(BRANCHES),--branches $(BRANCHES)) $(if $(PLOTS),--plots $(PLOTS))

clean: ## removes what was built
	$(cargo) clean
