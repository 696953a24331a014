#!/bin/sh
# Gets what the tests' Linux guests are made of into folder $1: a kernel (vmlinuz) and a static busybox. Both come
# from Debian's archive by apt, which checks their signatures, in folders of its own: nothing is installed, and
# nobody need be root.
set -eu
folder=$1
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

[ -s "$folder/vmlinuz" ] && [ -s "$folder/busybox" ] && exit 0

by_hand() {
    cat >&2 << EOF
The tests boot Linux under QEMU, and $1. Put these there and try again:
  $folder/vmlinuz   an x86-64 kernel with initramfs, devtmpfs and 8250 console built in, such as that of
                    Debian's package linux-image-cloud-amd64
  $folder/busybox   a static busybox, such as that of Debian's package busybox-static
EOF
    exit 1
}

command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null ||
    by_hand "this system has no apt to get a kernel with"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder" "$work/lists/partial" "$work/archives/partial" "$work/packages"

# As this system's apt is configured, if it is Debian's; else straight from Debian.
if ! grep -q '^ID=debian$' /etc/os-release; then
    [ -r "$keyring" ] ||
        by_hand "Debian's keys are missing: install debian-archive-keyring"
    echo "deb [signed-by=$keyring] https://deb.debian.org/debian stable main" > "$work/sources.list"
    set -- -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
else
    set --
fi
: > "$work/status"
set -- -qq "$@" -o "Dir::State=$work" -o "Dir::State::Lists=$work/lists" -o "Dir::State::status=$work/status" \
    -o "Dir::Cache=$work" -o APT::Architecture=amd64 -o APT::Sandbox::User=

echo "Getting a Linux kernel and busybox from Debian into $folder" >&2
apt-get "$@" update
kernel=$(apt-cache "$@" depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
[ -n "$kernel" ] || by_hand "apt knows no package linux-image-cloud-amd64"
(cd "$work/packages" && apt-get "$@" download "$kernel" busybox-static)
for package in "$work"/packages/*.deb; do
    dpkg-deb --extract "$package" "$work/root"
done
# Where busybox is depends on the release.
busybox=$(find "$work/root" -path '*bin/busybox' -type f)
cp "$busybox" "$folder/busybox"
# A file is there only once it is whole.
cp "$work/root/boot/vmlinuz-"* "$folder/vmlinuz.part"
mv "$folder/vmlinuz.part" "$folder/vmlinuz"
