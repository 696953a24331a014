#!/bin/sh
# Many runs of the guest with several CPUs, and a table of how many held. What did not is kept, with the seed.
#
#   tests/long/runs.sh family ROUNDS PROCESSES   the default scenario, so many times under each strategy
#   tests/long/runs.sh crowd SEEDS PROCESSES STEPS   random schedules, each by a seed of its own, over all strategies
#
# HEIRLOOM is the command, MACHINES the machines ("kvm qemu"), LEVELS the depths of page tables on QEMU ("4 5"), CPUS how
# many CPUs, FIRST the first seed, FOLDER where the output of runs that did not hold goes.
set -eu
: "${HEIRLOOM:=heirloom}" "${MACHINES:=kvm qemu}" "${LEVELS:=4 5}" "${CPUS:=4}" "${FIRST:=1}"
: "${FOLDER:=$(mktemp -d)}"
STRATEGIES="copy-all prealloc sync fault isolated"
kind=${1:?family or crowd} count=${2:?how many} processes=${3:?how many processes} steps=${4:-12}
failed=0

# one STRATEGY MACHINE LEVELS SEED: a run; whether it held.
one() {
    words="" && [ "$3" = 5 ] || words="la57=off"
    set -- "$1" "$2" "$3" "$4" "$FOLDER/$kind-$1-$2-$3-$4.txt"
    case $kind in
    family) set -- "$@" --processes "$processes" --cmdline "$words" ;;
    crowd) set -- "$@" --cmdline "init=crowd $words -- $processes $4 $steps" ;;
    *) echo "family or crowd" >&2 && exit 2 ;;
    esac
    strategy=$1 machine=$2 output=$5
    shift 5
    if "$HEIRLOOM" -q run --cpus "$CPUS" --machine "$machine" --propagation "$strategy" --timeout 600 "$@" \
        >"$output" 2>&1; then
        rm "$output"
    else
        return 1
    fi
}

# row STRATEGY MACHINE LEVELS FIRST STEP END: the runs of one row.
row() {
    held=0 runs=0 seed=$4
    while [ "$seed" -lt "$6" ]; do
        runs=$((runs + 1))
        one "$1" "$2" "$3" "$seed" && held=$((held + 1)) || failed=$((failed + 1))
        seed=$((seed + $5))
    done
    printf '%-10s %-7s %6s %5s %5s %5s\n' "$1" "$2" "$3" "$CPUS" "$runs" "$held"
}

printf '%-10s %-7s %6s %5s %5s %5s\n' strategy machine levels CPUs runs held
for machine in $MACHINES; do
    levels=$LEVELS && [ "$machine" != kvm ] || levels=4
    for level in $levels; do
        place=0
        for strategy in $STRATEGIES; do
            case $kind in
            family) row "$strategy" "$machine" "$level" 0 1 "$count" ;;
            crowd) row "$strategy" "$machine" "$level" $((FIRST + place)) 5 $((FIRST + count)) ;;
            esac
            place=$((place + 1))
        done
    done
done
[ "$failed" = 0 ] || { echo "$failed did not hold: $FOLDER" && exit 1; }
