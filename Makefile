# All that a newcomer needs: `make run` and `make test`.

CARGO ?= cargo
CARGO_DENY := ^0.20
GUEST_TARGET := x86_64-unknown-none
TARGET := $(or $(CARGO_TARGET_DIR),target)
LINUX_GUEST := $(TARGET)/linux-guest
OTHER_KERNELS := $(TARGET)/other-kernels
REPORT := $(TARGET)/report.html

.PHONY: run test report screenshots lint deny package clean guest-target lint-tools deny-tools qemu dump-tools linux-guest other-kernels chromium

## Boots the guest and judges it.
run: guest-target
	$(CARGO) run --release -- run

## Runs every test, on the real /dev/kvm and on QEMU.
test: guest-target qemu dump-tools linux-guest other-kernels chromium
	$(CARGO) test --workspace --doc
	$(CARGO) test --workspace --lib --bins --tests --no-fail-fast

## The default scenario as a page: its events and page tables, to explore with a browser.
report: guest-target
	@mkdir -p "$(dir $(REPORT))"
	$(CARGO) run --release -- explore --force --html "$(REPORT)"
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

## Licences, duplicates and sources of all dependencies, in both workspaces. Advisories need a database from
## the network: `cargo deny check advisories`, as the workflow in .github does.
deny: deny-tools
	$(CARGO) deny --locked --log-level error check licenses bans sources
	cd guest && $(CARGO) deny --locked --log-level error --config ../deny.toml check licenses bans sources

## Every library as it would be published, built from its package. The harness takes the guest with it. Cargo
## takes a version that it has unpacked and built for one that never changes: what an earlier run left of ours
## has to go, or these packages would be built on those.
package: guest-target
	$(CARGO) run --quiet --package heirloom-harness --example prebuilt -- vmm/harness/prebuilt
	rm -rf "$${CARGO_HOME:-$$HOME/.cargo}"/registry/src/-*/heirloom-* "$(TARGET)"/debug/.fingerprint/heirloom-*
	$(CARGO) package --workspace --exclude heirloom --locked --allow-dirty

clean:
	$(CARGO) clean
	cd guest && $(CARGO) clean

# The guest runs on bare metal. Without rustup the build itself says what to install.
guest-target:
	@if command -v rustup >/dev/null && ! rustup target list --installed | grep -qx $(GUEST_TARGET); then \
		rustup target add $(GUEST_TARGET); \
	fi

lint-tools:
	@if command -v rustup >/dev/null && ! { $(CARGO) fmt --version && $(CARGO) clippy --version; } >/dev/null 2>&1; then \
		rustup component add rustfmt clippy; \
	fi

# Built once, into Cargo's home: two minutes on two cores.
deny-tools:
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) install --quiet --locked cargo-deny --version $(CARGO_DENY); \
	fi

# Some tests boot the same kernel under QEMU.
qemu:
	@if ! command -v qemu-system-x86_64 >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends qemu-system-x86; \
		else \
			echo "The tests need qemu-system-x86_64. Install it and try again:" >&2; \
			echo "  Debian, Ubuntu: sudo apt-get install qemu-system-x86" >&2; \
			echo "  Fedora:         sudo dnf install qemu-system-x86-core" >&2; \
			echo "  Arch:           sudo pacman -S qemu-system-x86" >&2; \
			exit 1; \
		fi; \
	fi

# Some make the dumps that kdump makes, and pack them.
dump-tools:
	@if ! { command -v makedumpfile && command -v xz && command -v zstd && command -v lz4 && command -v bzip2; } >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends makedumpfile xz-utils zstd lz4 bzip2; \
		else \
			echo "The tests need makedumpfile, xz, zstd, lz4 and bzip2. Install them and try again:" >&2; \
			echo "  Debian, Ubuntu: sudo apt-get install makedumpfile xz-utils zstd lz4 bzip2" >&2; \
			echo "  Fedora:         sudo dnf install makedumpfile xz zstd lz4 bzip2" >&2; \
			echo "  Arch:           sudo pacman -S xz zstd lz4 bzip2, and makedumpfile from the AUR" >&2; \
			exit 1; \
		fi; \
	fi

# Others boot a distribution's Linux there.
linux-guest:
	@tests/common/linux/fetch.sh "$(LINUX_GUEST)"

# And others Xen, firmware, a boot loader, a memory test and a real-time Linux.
other-kernels:
	@tests/common/others/fetch.sh "$(OTHER_KERNELS)"

# The tests of the explorer drive it in a browser.
chromium:
	@if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
		else \
			echo "The tests need Chromium. Install it and try again:" >&2; \
			echo "  Debian: sudo apt-get install chromium" >&2; \
			echo "  Fedora: sudo dnf install chromium" >&2; \
			echo "  Arch:   sudo pacman -S chromium" >&2; \
			exit 1; \
		fi; \
	fi
