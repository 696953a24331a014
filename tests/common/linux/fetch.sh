#!/bin/sh
# Gets what the tests' Linux guests are made of into folder $1: a kernel (vmlinuz) and a static busybox. Both come
# from the system's own package archive by apt, which checks their signatures, in folders of its own: nothing is
# installed, and nobody need be root.
set -eu
folder=$1

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

: > "$work/status"
set -- -qq -o "Dir::State=$work" -o "Dir::State::Lists=$work/lists" -o "Dir::State::status=$work/status" \
    -o "Dir::Cache=$work" -o APT::Architecture=amd64 -o APT::Sandbox::User=

echo "Getting a Linux kernel and busybox from this system's package archive into $folder" >&2
apt-get "$@" update
# Debian's name, and Ubuntu's, for a kernel that guests boot.
kernel=
for package in linux-image-cloud-amd64 linux-image-virtual; do
    [ -n "$kernel" ] || kernel=$(apt-cache "$@" depends "$package" 2> /dev/null |
        sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
done
[ -n "$kernel" ] || by_hand "apt knows no package linux-image-cloud-amd64 or linux-image-virtual"
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
