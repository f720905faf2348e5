# Every command of the project. `make` alone prints them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh
# Rust as rustup installs it, also before a shell's profile knows of it.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# make escape-report KNOCKOUT=seccomp: that layer left out; WRITE=1: write docs/escape-report.md
KNOCKOUT ?=
WRITE ?=
# make deb ARCH=arm64: for another machine than this one
ARCH ?=
# make demo KEEP=1: leave the control plane and the daemon running
KEEP ?=
# make fuzz SECONDS=600: so long for each target
SECONDS ?= 60

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## run the whole system on this machine and watch six directives (KEEP=1 leaves it running)
	@KEEP='$(KEEP)' tools/demo.sh

.PHONY: test
test: bootstrap-test ## run every test; missing packages and Rust are installed first
	@tools/test.sh

.PHONY: build
build: bootstrap-run ## build ./nexusd and ./mothership (release)
	@tools/with-revision.sh $(CARGO) build --release --locked -p nexusd -p mothership
	@install -m 0755 '$(TARGET)/release/nexusd' '$(TARGET)/release/mothership' .

.PHONY: check
check: bootstrap-check ## formatting, lints, file sizes, licences, architecture, unit tests
	@$(CARGO) fmt --all --check
	@tools/file-sizes.sh
	@tools/deny.sh
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@tools/test.sh -E 'kind(lib) | kind(bin) | binary(house)'

.PHONY: check-macos
check-macos: ## whether nexusd's types hold for macOS, without a Mac; says so where that cannot be checked; links and runs nothing
	@tools/check-macos.sh

.PHONY: test-bwrap
test-bwrap: bootstrap-run ## the bubblewrap driver's tests alone, at most 120 s once compiled
	@tools/test-driver.sh bwrap

.PHONY: test-container
test-container: bootstrap-test ## the container driver's tests alone, in real containers, at most 120 s once compiled
	@tools/test-image.sh >/dev/null
	@tools/test-driver.sh container

.PHONY: test-vm
test-vm: bootstrap-vm ## the tests that need a modern host (cgroup v2, delegation, …), in an emulated one; changes nothing here
	@tools/test-vm.sh

.PHONY: escape-report
escape-report: bootstrap-test ## attack the sandbox, with each layer left out in turn, and print the table (KNOCKOUT=seccomp: that one alone; WRITE=1)
	@KNOCKOUT='$(KNOCKOUT)' WRITE='$(WRITE)' tools/escape-report.sh

.PHONY: bench
bench: build bench-egress bench-image ## latencies, memory and throughput of the whole system, against plain bubblewrap and files; the egress proxy against others
	@tools/with-revision.sh $(CARGO) bench --locked -p nexusd --bench latency
	@tools/with-revision.sh $(CARGO) bench --locked -p nexusd --bench shipping

.PHONY: chaos
chaos: bootstrap-test build ## faults, kills and outages in full: nothing lost, nothing twice (make test has a part of it); minutes
	@tools/chaos.sh

.PHONY: bench-image
bench-image: # what trusted directives are measured in, where podman is
	@tools/test-image.sh >/dev/null || [ $$? -eq 3 ]

.PHONY: bench-egress
bench-egress: bootstrap-bench ## the egress proxy beside tinyproxy, squid and microsocks: set-ups, throughput, processor time, memory
	@$(CARGO) bench --locked -p egress --bench proxies

.PHONY: fuzz
fuzz: bootstrap-fuzz ## fuzz each parser of hostile bytes (SECONDS=60 each; KEEP=1 makes the committed corpora anew)
	@KEEP='$(KEEP)' tools/fuzz.sh '$(SECONDS)'

.PHONY: build-linux
build-linux: bootstrap-build ## static release binaries for amd64 and arm64 in dist/
	@tools/build-release.sh linux

.PHONY: build-macos
build-macos: ## the macOS daemon (arm64) in dist/; needs a Mac
	@tools/build-release.sh macos

.PHONY: deb
deb: bootstrap-build ## Debian packages of both programs in dist/, for this machine (ARCH=arm64: for that)
	@tools/build-deb.sh $(ARCH)

.PHONY: fmt
fmt: bootstrap-check ## format the source
	@$(CARGO) fmt --all

.PHONY: clean
clean: ## remove what was built here
	@rm -rf dist nexusd mothership
	@$(CARGO) clean

.PHONY: bootstrap-bench bootstrap-build bootstrap-check bootstrap-fuzz bootstrap-run bootstrap-test bootstrap-vm
bootstrap-bench bootstrap-build bootstrap-check bootstrap-fuzz bootstrap-run bootstrap-test bootstrap-vm: bootstrap-%:
	@tools/bootstrap.sh $*
