#!/bin/sh
# Gets kernels that are not Linux, and firmware, into folder $1: xen, memtest, OVMF_CODE.fd, OVMF_VARS.fd, u-boot.rom,
# and vmlinuz-rt, Linux with PREEMPT_RT.
set -eu
folder=$1

complete() {
    for file in xen memtest OVMF_CODE.fd OVMF_VARS.fd u-boot.rom vmlinuz-rt; do
        [ -s "$folder/$file" ] || return 1
    done
}
complete && exit 0

by_hand() {
    cat >&2 << EOF
The tests boot Xen, memtest86+, OVMF, U-Boot and a real-time Linux under QEMU, and $1. Put these there and try again:
  $folder/xen            xen.gz of Debian's package xen-hypervisor-4.17-amd64, or a later one, unpacked
  $folder/memtest        memtest86+x64.bin of Debian's package memtest86+
  $folder/OVMF_CODE.fd   OVMF_CODE_4M.fd of Debian's package ovmf
  $folder/OVMF_VARS.fd   OVMF_VARS_4M.fd of the same
  $folder/u-boot.rom     qemu-x86_64/u-boot.rom of Debian's package u-boot-qemu
  $folder/vmlinuz-rt     the kernel of Debian's package linux-image-rt-amd64
EOF
    exit 1
}
. "${0%/*}/../apt.sh"

echo "Getting Xen, memtest86+, OVMF, U-Boot and a real-time Linux from this system's package archive into $folder" >&2
apt apt-get update
# The release is part of the package's name.
xen=$(apt apt-cache pkgnames xen-hypervisor- | grep -E '^xen-hypervisor-[0-9.]+-amd64$' | sort -V | tail -n 1)
[ -n "$xen" ] || by_hand "apt knows no package xen-hypervisor-…-amd64"
realtime=$(kernel_of linux-image-rt-amd64)
[ -n "$realtime" ] || by_hand "apt knows no package linux-image-rt-amd64"
unpack "$xen" memtest86+ ovmf u-boot-qemu "$realtime"

gunzip -c "$work"/root/boot/xen-*-amd64.gz > "$work/xen"
put "$work/xen" xen
put "$work/root/boot/memtest86+x64.bin" memtest
put "$work/root/usr/share/OVMF/OVMF_CODE_4M.fd" OVMF_CODE.fd
put "$work/root/usr/share/OVMF/OVMF_VARS_4M.fd" OVMF_VARS.fd
put "$work/root/usr/lib/u-boot/qemu-x86_64/u-boot.rom" u-boot.rom
put "$work"/root/boot/vmlinuz-*-rt-amd64 vmlinuz-rt
