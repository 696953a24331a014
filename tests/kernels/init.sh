#!/bin/busybox sh
# Process 1 of a guest that has five processes and tells so in the kernel's log, which every console shows.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for _ in 1 2 3 4; do
    /bin/busybox sleep 100000 &
done
/bin/busybox sleep 1
number=0
for maps in /proc/[0-9]*/maps; do
    # A kernel thread maps nothing.
    read -r first < "$maps" 2> /dev/null && number=$((number + 1))
done
echo "<0>== ready with $number processes ==" > /dev/kmsg
# No new program, which would have two address spaces for a moment.
wait
