# What a developer does with Flyover. `make deps` is part of every target that builds, and does nothing when all
# packages are there.

CARGO  ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
# Root of a network of one's own: at once for root, in a user namespace for anybody else.
LAB    := $(CURDIR)/tests/in-userns
RUNNER := --config 'target."cfg(unix)".runner = "$(LAB)"'
# Two at a time, whatever the machine: each has a gateway that polls.
LABS   ?= 2

# Of `make oracle-long`.
PACKETS ?= 10000000

.PHONY: demo test unit e2e kernel oracle oracle-long bench lint clean deps

## demo: watch real connections being carried past the kernel, in network namespaces
demo: deps
	$(CARGO) build --release --package flyover --package flyover-tests --bin flyover --bin demo
	FLYOVER_BIN=$(TARGET)/release/flyover $(LAB) $(TARGET)/release/demo

## test: unit tests, doc tests, the kernel as oracle, and Flyover end to end
test: unit oracle e2e

unit: deps
	$(CARGO) test --workspace $(RUNNER) --exclude flyover-tests
	$(CARGO) test --package flyover-tests $(RUNNER) --lib

e2e: deps
	$(CARGO) build --package flyover --bin flyover
	FLYOVER_BIN=$(TARGET)/debug/flyover \
	$(CARGO) test --package flyover-tests $(RUNNER) --no-fail-fast --test '*' -- --test-threads=$(LABS)

## kernel: the end-to-end tests with the kernel alone as gateway, which shows that what they expect is the kernel's
kernel: deps
	$(CARGO) build --package flyover --bin flyover
	FLYOVER_LAB=kernel FLYOVER_BIN=$(TARGET)/debug/flyover \
	$(CARGO) test --package flyover-tests $(RUNNER) --no-fail-fast --test '*' -- --test-threads=$(LABS)

## oracle: the same 100,000 packets through the kernel and through Flyover's fast path, compared byte for byte
oracle: deps
	$(CARGO) build --package flyover-tests --bin oracle
	$(LAB) $(TARGET)/debug/oracle $(ORACLE)

## oracle-long: the same with PACKETS=10000000, and as fast as it goes
oracle-long: deps
	$(CARGO) build --release --package flyover-tests --bin oracle
	$(LAB) $(TARGET)/release/oracle --packets $(PACKETS) $(ORACLE)

## bench: micro and whole-gateway benchmarks
bench: deps
	$(CARGO) bench --package flyover-bench

## lint: formatting, clippy and documentation, all without warnings
lint: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps

clean:
	$(CARGO) clean

## deps: Debian's packages to build, test and show Flyover; with sudo for whoever is not root
deps:
	@tests/install-packages
