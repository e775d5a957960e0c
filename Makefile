# Every command of the README. `make` alone lists them.
#
# Cargo's own folder is wherever CARGO_TARGET_DIR says; what people and tests look for is always
# below ./target: target/release/inspector and target/plugins/*.wasm.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO_DIR := $(or $(CARGO_TARGET_DIR),target)
TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')
# One folder below plugins/ is one package is one component; the SDK is what they import.
PLUGINS := $(filter-out sdk,$(patsubst plugins/%/Cargo.toml,%,$(wildcard plugins/*/Cargo.toml)))
C_FILES = $(wildcard ebpf/src/*.c ebpf/src/*.h)
MIRRORS = $(patsubst %.bpf.c,%.rs,$(wildcard ebpf/src/*.bpf.c))
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# Programs that were built beside the agent, and what they take as the product.
PROGRAM = $(CARGO_DIR)/$(TRIPLE)/release
AS_BUILT = env INSPECTOR_PLUGINS=$(CURDIR)/target/plugins INSPECTOR_BIN=$(CURDIR)/target/release/inspector

# A component is a twentieth of the size without its debug tables, and the agent holds it in memory.
COMPONENT_PROFILE := CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 CARGO_PROFILE_RELEASE_DEBUG=false

# What each target needs, and no more: it asks for its own packages (Debian's names) before it begins.
BUILD_PACKAGES := clang libbpf-dev
# What faults are made with: those of the demo, and those of the lab.
DEMO_PACKAGES := iproute2 nftables
LAB_PACKAGES := $(DEMO_PACKAGES) iptables conntrack ethtool
# What `make bench` compares with.
BENCH_PACKAGES := prometheus-node-exporter
# What else the tests use, or are checked against; among it a container runtime for real pods, unless
# there is one: Debian's would replace it.
TEST_PACKAGES := $(LAB_PACKAGES) $(BENCH_PACKAGES) bpftool curl prometheus containernetworking-plugins busybox-static
TEST_PACKAGES += $(if $(shell command -v containerd),,containerd runc)
LINT_PACKAGES := clang-format
# The shell of the image.
IMAGE_PACKAGES := busybox-static
BUSYBOX ?= /bin/busybox
# What `make test-kernels` boots stock kernels with.
KERNEL_PACKAGES := qemu-system-x86 cpio xz-utils
# Installs what is missing of a list of packages; fetches nothing when all is there.
define install
if ! command -v dpkg-query >/dev/null; then echo "packages: not Debian; this needs what matches:" $(1); exit 0; fi; \
missing=$$(for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
if [ -z "$$missing" ]; then exit 0; fi; \
if [ -n "$(SUDO)" ] && ! command -v sudo >/dev/null; then \
  echo "error: packages are missing, and installing them needs root: apt-get install" $$missing >&2; exit 1; fi; \
echo "packages: installing" $$missing; \
$(SUDO) apt-get update -q && \
$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing
endef
# Adds what is missing of targets and components to the toolchain, if rustup manages it.
define rustup
if command -v rustup >/dev/null; then \
  rustup $(1) list --installed | grep -q '^$(2)' || rustup $(1) add $(2); fi
endef
# Copies a file only if it differs, and in one step: a running agent watches target/plugins.
define put
cmp -s $(1) $(2) || { cp $(1) $(2).tmp && mv -f $(2).tmp $(2); }
endef

# Targets build on each other in the order in which they are named.
.NOTPARALLEL:
.PHONY: help setup build demo run test record-cases lab test-kernels lab-kernels bench bench-quick fmt lint image coverage

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

setup: ## install what building and testing needs; each target does so for itself as well
	@$(call install,$(BUILD_PACKAGES) $(TEST_PACKAGES))
	@$(call rustup,target,wasm32-wasip2)

build: ## release binary target/release/inspector and components target/plugins/*.wasm
	@$(call install,$(BUILD_PACKAGES))
	@$(call rustup,target,wasm32-wasip2)
	cargo build --release
	@# One at a time: cargo sets the crate type of one package only.
	@for p in $(PLUGINS); do $(COMPONENT_PROFILE) cargo rustc --quiet --release --target wasm32-wasip2 -p $$p --crate-type cdylib; done
	@mkdir -p target/release target/plugins
	@objcopy --strip-debug $(CARGO_DIR)/$(TRIPLE)/release/inspector target/inspector.stripped
	@$(call put,target/inspector.stripped,target/release/inspector)
	@for p in $(PLUGINS); do $(call put,$(CARGO_DIR)/wasm32-wasip2/release/$${p//-/_}.wasm,target/plugins/$$p.wasm); done
	@for f in target/plugins/*.wasm; do name=$$(basename $$f .wasm); [ -d plugins/$$name ] || rm $$f; done
	@ls -l target/release/inspector target/plugins/*.wasm

# Without root, and without a sudo that asks for no password, the demo shows recorded traces.
DEMO_AS = $(if $(SUDO),$(shell sudo -n true 2>/dev/null && echo sudo))

demo: build ## three real faults and what Inspector says of them: live with root, else from recorded traces
	@$(if $(DEMO_AS)$(filter 0,$(shell id -u)),$(call install,$(DEMO_PACKAGES)))
	@$(DEMO_AS) $(AS_BUILT) $(PROGRAM)/demo

run: build ## run the agent on this machine with the built analyzers (root); ARGS=... adds flags
	$(SUDO) target/release/inspector serve --plugin-dir target/plugins $(ARGS)

test: build ## every test, with real packets in network namespaces (root)
	@$(if $(SUDO),echo "error: the tests load eBPF programs and make network namespaces: run them as root" >&2; exit 1)
	@$(call install,$(TEST_PACKAGES))
	cargo test --release --no-fail-fast --workspace

record-cases: build ## record the faults of the replay tests anew (root); CASES=... names some
	@$(call install,$(LAB_PACKAGES))
	$(SUDO) $(AS_BUILT) $(PROGRAM)/record-cases $(CASES)

lab: build ## every fault of the lab and what the diagnosis concludes, as a table (root); ARGS='firewall' runs a theme, ARGS='unseen' an exam, ARGS='--ongoing dns' asks while they last
	@$(call install,$(LAB_PACKAGES))
	$(SUDO) $(AS_BUILT) $(PROGRAM)/lab $(ARGS)

test-kernels: build ## the same binary on stock 6.1 and 6.12 kernels in qemu
	@$(call install,$(LAB_PACKAGES) $(KERNEL_PACKAGES))
	$(AS_BUILT) $(PROGRAM)/kernels

lab-kernels: build ## the cases of the lab that need only what a guest has, on the same stock kernels
	@$(call install,$(LAB_PACKAGES) $(KERNEL_PACKAGES))
	$(AS_BUILT) $(PROGRAM)/kernels --lab

coverage: build ## every metric of the contract, seen changing under a workload (root); ARGS='a closed port' runs one
	@$(call install,$(LAB_PACKAGES))
	$(SUDO) $(AS_BUILT) $(PROGRAM)/coverage $(ARGS)

bench: build ## what Inspector costs, beside hand-written floors in the same run (root); ARGS='--only counters' measures one part
	@$(call install,$(LAB_PACKAGES) $(BENCH_PACKAGES))
	$(SUDO) $(AS_BUILT) $(PROGRAM)/bench $(ARGS)

bench-quick: build ## the same table from fewer rounds, in under two minutes (root)
	@$(call install,$(LAB_PACKAGES) $(BENCH_PACKAGES))
	$(SUDO) $(AS_BUILT) $(PROGRAM)/bench --quick $(ARGS)

fmt: ## write all Rust and C in the common format
	@$(call install,$(LINT_PACKAGES))
	@$(call rustup,component,rustfmt)
	cargo fmt --all
	rustfmt --edition 2024 $(MIRRORS)
	clang-format -i $(C_FILES)

lint: ## format, clippy, C format, documentation, import rules; warnings are errors
	@$(call install,$(BUILD_PACKAGES) $(LINT_PACKAGES))
	@$(call rustup,component,clippy)
	@$(call rustup,component,rustfmt)
	cargo fmt --all --check
	@# The modules of the probes are declared by a macro, behind which rustfmt does not look.
	rustfmt --edition 2024 --check $(MIRRORS)
	cargo clippy --release --all-targets -- -D warnings
	cargo clippy --release --target wasm32-wasip2 -p inspector-sdk $(addprefix -p ,$(PLUGINS)) -- -D warnings
	clang-format --dry-run --Werror $(C_FILES)
	@# The documentation is that of private items too, so a module head may link to its parts.
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --release --no-deps --document-private-items
	cargo test --release --workspace --test all import_rules

image: build ## container images inspector:VERSION, with a shell, and inspector:VERSION-scratch, the static binary alone; BUSYBOX=... names another static busybox
	@$(call install,$(IMAGE_PACKAGES))
	@if readelf -lW $(BUSYBOX) | grep -q INTERP; then \
	  echo "error: $(BUSYBOX) is not static, and the image has no libraries: name one that is, BUSYBOX=..." >&2; exit 1; fi
	@rm -rf target/image && mkdir -p target/image/{plugins,links,busybox}
	@cp deploy/Dockerfile deploy/inspector.toml target/release/inspector target/image/
	@cp target/plugins/*.wasm target/image/plugins/
	@ln -s /usr/bin/inspector target/image/links/inspector
	@cp $(BUSYBOX) target/image/busybox/busybox
	@for tool in $$($(BUSYBOX) --list); do [ $$tool = busybox ] || ln -s busybox target/image/busybox/$$tool; done
	@tag=inspector:$$(target/release/inspector version -o json | sed 's/.*"version":"\([^"]*\)".*/\1/'); \
	if command -v buildah >/dev/null; then builder="buildah build"; \
	elif command -v podman >/dev/null; then builder="podman build"; \
	elif docker info >/dev/null 2>&1; then builder="docker build"; \
	else echo "error: an image needs buildah, podman or a running docker engine; its files are in target/image" >&2; exit 1; fi; \
	$$builder --target agent -t $$tag-scratch target/image && $$builder --target shell -t $$tag target/image
