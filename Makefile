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

.PHONY: demo test unit e2e kernel oracle oracle-long loom sanitize valgrind miri test-guest test-guest-long bench scale \
        attacks instructions package test-package screenshots schemas lint book clean deps

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

## oracle: the same 300,000 packets through the kernel and through Flyover's fast path, compared byte for byte
oracle: deps
	$(CARGO) build --package flyover-tests --bin oracle
	$(LAB) $(TARGET)/debug/oracle $(ORACLE)

## oracle-long: the same with PACKETS=10000000, and as fast as it goes
oracle-long: deps
	$(CARGO) build --release --package flyover-tests --bin oracle
	$(LAB) $(TARGET)/release/oracle --packets $(PACKETS) $(ORACLE)

# Checked builds have a directory of their own, so that the ordinary build stays as it is. They share what runs while
# building (bindgen above all), which needs no optimisation: hence one profile, and the unstable flag for both.
HOST    := $(shell rustc -vV | sed -n 's/^host: //p')
CHECKED := CARGO_TARGET_DIR=$(TARGET)/checked RUSTC_BOOTSTRAP=1 CARGO_PROFILE_DEV_BUILD_OVERRIDE_OPT_LEVEL=0

## loom: the orders in which workers and control can meet at the flow table, within the budget that its tests state
loom: deps
	$(CHECKED) CARGO_PROFILE_DEV_OPT_LEVEL=3 RUSTFLAGS="--cfg loom" \
	$(CARGO) test --package dataplane --lib --target $(HOST) loom_tests

## sanitize: flow table, rings, bursts, worker and hardware rules under AddressSanitizer
sanitize: deps
	$(CHECKED) RUSTFLAGS=-Zsanitizer=address PROPTEST_CASES=32 \
	$(CARGO) test --package dataplane --lib --target $(HOST) -- dpdk:: flow:: hardware:: punt:: worker::

## valgrind: the flow table's unit tests under memcheck; some minutes
valgrind: deps
	PROPTEST_CASES=8 CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_RUNNER="valgrind -q --error-exitcode=9" \
	$(CARGO) test --package dataplane --lib -- flow:: punt::fingerprints --skip stress

## miri: the flow table's unit tests under miri, for those who have it: rustup +nightly component add miri
miri: deps
	MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=4 $(CARGO) +nightly miri test --package dataplane --lib -- flow::

## test-guest: on emulated NICs, with both kinds of twin, and beside the kernel's flowtable, on two kernels under qemu;
## ten minutes at most, of GUEST_BUDGET seconds
test-guest: deps
	$(CARGO) build --workspace --bins
	FLYOVER=$(TARGET)/debug/flyover TRAFFIC=$(TARGET)/debug/guest-traffic tests/guest/suite short

## test-guest-long: the same with every NIC and case, which takes an hour; writes docs/flowtable-comparison.md anew
test-guest-long: deps
	$(CARGO) build --release --package flyover --package flyover-tests --bin flyover --bin guest-traffic --bin guest-nic
	FLYOVER=$(TARGET)/release/flyover TRAFFIC=$(TARGET)/release/guest-traffic tests/guest/suite long

## bench: what packets cost beside what they cost others: tables, bench/results/latest.json and plots
bench: deps
	$(CARGO) build --release --package flyover-bench
	$(TARGET)/release/flyover-bench all

## scale: 10,000 connections over a kill and a restart, 100,000 over a reload of the ruleset: what is lost, how long it takes
scale: deps
	$(CARGO) build --release --package flyover --package flyover-tests --bin flyover --bin scale
	FLYOVER_BIN=$(TARGET)/release/flyover $(LAB) $(TARGET)/release/scale restart --connections 10000
	FLYOVER_BIN=$(TARGET)/release/flyover $(LAB) $(TARGET)/release/scale reload --connections 100000

## attacks: floods and forgeries from the wire, on Flyover and on the kernel alone; some six minutes. ATTACKS="--json syn nd"
attacks: deps
	$(CARGO) build --release --package flyover --package flyover-tests --bin flyover --bin attacks
	FLYOVER_BIN=$(TARGET)/release/flyover $(LAB) $(TARGET)/release/attacks $(ATTACKS)

## instructions: no more instructions a packet than bench/instructions.txt says
instructions: deps
	$(CARGO) build --release --package flyover-bench
	CARGO_TARGET_DIR=$(TARGET) bench/instructions

## package: the Debian package, into target/package
package:
	@tests/install-packages --build-only debhelper
	rm -f $(TARGET)/package/*.deb
	mkdir -p $(TARGET)/package
	CARGO="$(CARGO)" DESTINATION=$(TARGET)/package DEB_RULES_REQUIRES_ROOT=no debian/rules binary
	debian/rules clean

## test-package: the package in a fresh Debian 12: installed, started, upgraded under traffic, removed, purged; as root
test-package:
	@tests/install-packages --build-only mmdebstrap systemd-container
	packaging/test $(lastword $(sort $(wildcard $(TARGET)/package/flyover_*.deb)))

## screenshots: docs/images/top.svg, of a gateway under traffic
screenshots: deps
	$(CARGO) build --package flyover --bin flyover
	$(CARGO) build --package flyover-tests --bin screenshot
	FLYOVER_BIN=$(TARGET)/debug/flyover $(LAB) $(TARGET)/debug/screenshot docs/images/top.svg

## schemas: docs/schema, from the types of the JSON documents
schemas: deps
	UPDATE=1 $(CARGO) test --package flyover --lib committed_schemas

## lint: formatting, clippy and documentation, all without warnings
lint: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps

## book: docs as a book in target/book/docs/index.html, with the files that its pages link to; needs mdBook
book:
	@command -v mdbook >/dev/null || { echo "no mdbook: cargo install mdbook --locked --no-default-features" >&2; exit 1; }
	rm -rf $(TARGET)/book
	mkdir -p $(TARGET)/book
	tar -c --exclude=./target --exclude=./.git --exclude=./docs . | tar -x -C $(TARGET)/book
	mdbook build docs --dest-dir $(TARGET)/book/docs
	@# Where links to README.md lead, as mdBook writes them.
	cp $(TARGET)/book/docs/adr/index.html $(TARGET)/book/docs/adr/README.html

clean:
	$(CARGO) clean

## deps: Debian's packages to build, test and show Flyover; with sudo for whoever is not root
deps:
	@tests/install-packages
