#!/bin/busybox sh
# Process 1 of the Linux guests of the tests: makes processes of many kinds, tells on the console what
# there is, in sections that begin with "== ", and stands still. Of the kernel's command line, "kinds" names another
# kind of process of the workload program in the place of all, "more" one besides, "sleepers" the number of processes
# that sleep, "symbols" which to tell.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
# With this little memory the kernel makes no large pages of its own accord.
echo always > /sys/kernel/mm/transparent_hugepage/enabled

# Processes that have ended before, during and after the others leave their tables in free memory.
churn() {
    for _ in 1 2 3 4 5 6; do
        true_program "$@"
    done
}
true_program() { busybox true; }

churn
# The workload program does what its name says, and processes are known by their names.
for kind in ${kinds:-heap fork shared huge none jit threads vfork ldt ldt pkey high} $more; do
    [ -e /bin/$kind ] || ln -s workload /bin/$kind
    $kind &
done
churn
# Copies of this shell, which share its pages with it until they write.
mkfifo /never
for _ in 1 2 3 4 5 6 7 8; do
    ( read -r _ < /never ) &
done
number=0
while [ $number -lt ${sleepers:-38} ]; do
    sleep 100000 &
    number=$((number + 1))
done
for _ in 1 2 3; do
    heap & kill -9 $!; wait $! 2> /dev/null
done
# Lets every one of them arrive where it sleeps.
sleep 1

echo "== kernel"
cat /proc/version
dmesg | grep -E 'W.X|isolation|KASLR|Kernel Offset'
echo "== symbols"
grep -E "${symbols:- (init_top_pgt|trampoline_pgd_entry|pgd_list|poking_mm|page_offset_base|vmalloc_base|vmemmap_base|_text|_etext|_end|__start_rodata|__end_rodata)\$}" /proc/kallsyms
echo "== iomem"
grep -v '^ ' /proc/iomem
echo "== comm"
grep -H '' /proc/[0-9]*/comm
echo "== maps"
grep -H '' /proc/[0-9]*/maps
churn
# From here on nothing is born and nothing ends but what the host says.
echo "== alive"
echo /proc/[0-9]*
echo "== ready"
while read -r command; do
    eval "$command"
    echo "== done"
done
read -r _ < /never
