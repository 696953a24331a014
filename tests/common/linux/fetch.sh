#!/bin/sh
# Gets what the tests' Linux guests are made of into folder $1: a kernel (vmlinuz) and a static busybox.
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
. "${0%/*}/../apt.sh"

echo "Getting a Linux kernel and busybox from this system's package archive into $folder" >&2
apt apt-get update
# Debian's name, and Ubuntu's, for a kernel that guests boot.
kernel=$(kernel_of linux-image-cloud-amd64)
[ -n "$kernel" ] || kernel=$(kernel_of linux-image-virtual)
[ -n "$kernel" ] || by_hand "apt knows no package linux-image-cloud-amd64 or linux-image-virtual"
unpack "$kernel" busybox-static
# Where busybox is depends on the release.
put "$(find "$work/root" -path '*bin/busybox' -type f)" busybox
put "$work/root/boot/vmlinuz-"* vmlinuz
