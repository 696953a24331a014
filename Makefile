# All that a newcomer needs: `make run` and `make test`.

CARGO ?= cargo
CARGO_DENY := ^0.20
GUEST_TARGET := x86_64-unknown-none
STATIC_TARGET := x86_64-unknown-linux-musl
# What is linked has no tables for unwinding, and lists in bits what moves with the address that it is loaded to.
STATIC_FLAGS := -C link-arg=-Wl,-T,$(CURDIR)/vmm/cli/static.ld,--no-eh-frame-hdr,-z,pack-relative-relocs
TARGET := $(or $(CARGO_TARGET_DIR),target)
LINUX_GUEST := $(TARGET)/linux-guest
OTHER_KERNELS := $(TARGET)/other-kernels
REPORT := $(TARGET)/report.html

# Inputs that tests make up are the same from run to run. Others: `make test PROPTEST_RNG_SEED=2`.
PROPTEST_RNG_SEED ?= 1
export PROPTEST_RNG_SEED

.PHONY: run test report screenshots lint deny package python release clean guest-target static-target lint-tools deny-tools qemu bochs gdb dump-tools python-tools musl linux-guest other-kernels chromium

## Boots the guest and judges it. The build is not optimized: `cargo install --path vmm/cli` makes one to stay.
run: guest-target
	$(CARGO) run --profile quick -- run

## Runs every test, on the real /dev/kvm, on QEMU and on Bochs.
test: guest-target qemu bochs gdb dump-tools musl linux-guest other-kernels chromium
	$(CARGO) test --workspace --doc
	$(CARGO) test --workspace --lib --bins --tests --no-fail-fast

## The default scenario as a page: its events and page tables, to explore with a browser.
report: guest-target
	@mkdir -p "$(dir $(REPORT))"
	$(CARGO) run --profile quick -- explore --force --html "$(REPORT)"
	@echo "Open $(REPORT) in a browser."

## The README's pictures of the explorer, from real runs.
screenshots: guest-target chromium
	HEIRLOOM_SCREENSHOTS="$(CURDIR)/.github" $(CARGO) test -p heirloom --test explore -- the_readmes_pictures

## Formatting, lints and documentation of both workspaces; warnings are errors.
lint: guest-target lint-tools
	$(CARGO) fmt --all --check
	cd guest && $(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	cd guest && $(CARGO) clippy --release -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps
	cd vmm/python && $(CARGO) fmt --all --check

## Licences, duplicates and sources of all dependencies, in both workspaces. Advisories need a database from
## the network: `cargo deny check advisories`, as the workflow in .github does.
deny: deny-tools
	$(CARGO) deny --locked --log-level error check licenses bans sources
	cd guest && $(CARGO) deny --locked --log-level error --config ../deny.toml check licenses bans sources
	cd vmm/python && $(CARGO) deny --locked --log-level error --config ../../deny.toml check licenses bans sources

## Every crate as it would be published, and by itself. From the packages the command is installed, packed as a
## release is, and tried. The harness takes the guest with it.
package: guest-target static-target
	for manifest in guest/abi/Cargo.toml $(filter-out vmm/python/%,$(wildcard vmm/*/Cargo.toml)); do $(CARGO) check --quiet --manifest-path $$manifest || exit; done
	$(CARGO) build --quiet --workspace --example prebuilt
	"$(TARGET)/debug/examples/prebuilt" vmm/harness/prebuilt
	$(CARGO) package --quiet --workspace --locked --allow-dirty --no-verify
	CARGO="$(CARGO)" .ci/install "$(TARGET)"
	.ci/archives "$(TARGET)/install/bin/heirloom" "$(TARGET)/install/archives"
	.ci/try "$(TARGET)/install/archives"

## The Python package: its wheel, in target/python/wheels, and its tests.
python: guest-target qemu python-tools
	$(CARGO) clippy --locked --manifest-path vmm/python/Cargo.toml --target-dir "$(TARGET)" -- -D warnings
	CARGO="$(CARGO)" .ci/python "$(TARGET)"

## What is published: a static binary in an archive and a Debian package, with their checksums, in target/archives.
release: guest-target static-target
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS="$(STATIC_FLAGS)" \
		$(CARGO) rustc --locked --package heirloom --bin heirloom --profile dist --target $(STATIC_TARGET) -- -C strip=symbols
	.ci/archives "$(TARGET)/$(STATIC_TARGET)/dist/heirloom" "$(TARGET)/archives"
	.ci/try "$(TARGET)/archives"

clean:
	$(CARGO) clean
	cd guest && $(CARGO) clean

# The guest runs on bare metal. Without rustup the build itself says what to install.
guest-target:
	$(call add-target,$(GUEST_TARGET))

static-target:
	$(call add-target,$(STATIC_TARGET))

define add-target
@if command -v rustup >/dev/null && ! rustup target list --installed | grep -qx $(1); then \
	rustup target add $(1); \
fi
endef

lint-tools:
	@if command -v rustup >/dev/null && ! { $(CARGO) fmt --version && $(CARGO) clippy --version; } >/dev/null 2>&1; then \
		rustup component add rustfmt clippy; \
	fi

# Built once, into Cargo's home: two minutes on two cores.
deny-tools:
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) install --quiet --locked cargo-deny --version $(CARGO_DENY); \
	fi

# What the tests need of the distribution: $(call packages,COMMAND…,DEBIAN,FEDORA,ARCH), where there are not all COMMANDs.
define packages
if ! { $(foreach command,$(1),command -v $(command) &&) true; } >/dev/null; then \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $(2); \
	else \
		echo "The tests need $(1). Install what is missing and try again:" >&2; \
		echo "  Debian, Ubuntu: sudo apt-get install $(2)" >&2; \
		echo "  Fedora:         sudo dnf install $(3)" >&2; \
		echo "  Arch:           sudo pacman -S $(4)" >&2; \
		exit 1; \
	fi; \
fi
endef

# Some tests boot the same kernel under QEMU.
qemu:
	@$(call packages,qemu-system-x86_64,qemu-system-x86,qemu-system-x86-core,qemu-system-x86)

# And under Bochs, whose CPU has PCIDs; GRUB boots it there.
bochs:
	@$(call packages,bochs grub-mkrescue xorriso mformat,bochs bochs-term bochsbios vgabios grub-common grub-pc-bin xorriso mtools,bochs grub2-tools-extra grub2-pc-modules xorriso mtools,bochs grub xorriso mtools)

# One is a session of gdb.
gdb:
	@$(call packages,gdb,gdb,gdb,gdb)

# Some make the dumps that kdump makes, and pack them.
dump-tools:
	@$(call packages,makedumpfile xz zstd lz4 bzip2 lzop zip unzip ewfexport virsh,makedumpfile xz-utils zstd lz4 bzip2 lzop zip unzip ewf-tools libvirt-clients libvirt-daemon-driver-qemu,makedumpfile xz zstd lz4 bzip2 lzop zip unzip ewftools libvirt-client libvirt-daemon-driver-qemu,xz zstd lz4 bzip2 lzop zip unzip libvirt (and makedumpfile and libewf from the AUR))

# One links a program for the guest with a C library.
musl:
	@$(call packages,musl-gcc,musl-tools gcc libc6-dev,musl-gcc gcc,musl gcc)

# The Python package is built and tried in an environment of its own.
python-tools:
	@if ! python3 -m ensurepip --version >/dev/null 2>&1; then \
		$(call packages,python3-with-venv,python3 python3-venv,python3,python); \
	fi

# Others boot a distribution's Linux there.
linux-guest:
	@tests/common/linux/fetch.sh "$(LINUX_GUEST)"

# And others Xen, firmware, a boot loader, a memory test and a real-time Linux.
other-kernels:
	@tests/common/others/fetch.sh "$(OTHER_KERNELS)"

# The tests of the explorer drive it in a browser, by whichever name it has.
chromium:
	@command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	$(call packages,chromium,chromium,chromium,chromium)
