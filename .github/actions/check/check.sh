#!/bin/bash
# Boots KERNEL in QEMU, waits for READY on its console, and checks its page tables: a step of a workflow or job.
# Environment: KERNEL, READY; and, if wanted, INITRD, APPEND, ACCEL (kvm or tcg), LIMIT, ARGUMENTS, HEIRLOOM, OUTPUT.
set -euo pipefail

folder=$(mktemp -d)
qemu=
finish() {
  if [ -n "$qemu" ]; then
    kill "$qemu" 2> /dev/null || true
    wait "$qemu" 2> /dev/null || true
  fi
  rm -rf "$folder"
}
trap finish EXIT

accelerator=${ACCEL:-tcg}
if [ -z "${ACCEL:-}" ] && [ -w /dev/kvm ]; then
  accelerator=kvm
fi
arguments=(-accel "$accelerator" -cpu max -m 512M -display none -no-reboot -kernel "$KERNEL" -append "${APPEND:-console=ttyS0}")
if [ -n "${INITRD:-}" ]; then
  arguments+=(-initrd "$INITRD")
fi
qemu-system-x86_64 "${arguments[@]}" -serial "file:$folder/console" \
  -qmp "unix:$folder/qmp,server=on,wait=off" < /dev/null &
qemu=$!

end=$((SECONDS + ${LIMIT:-300}))
until grep -qF -- "$READY" "$folder/console" 2> /dev/null; do
  if ! kill -0 "$qemu" 2> /dev/null; then
    echo "QEMU ended before the console said: $READY" >&2
    cat "$folder/console" >&2 || true
    exit 4
  fi
  if [ "$SECONDS" -ge "$end" ]; then
    echo "the console did not say within ${LIMIT:-300} s: $READY" >&2
    tail -n 20 "$folder/console" >&2 || true
    exit 4
  fi
  sleep 0.2
done

# Words of ARGUMENTS are arguments of their own.
# shellcheck disable=SC2206
more=(${ARGUMENTS:-})
report=$folder/report.md
status=0
"${HEIRLOOM:-heirloom}" check "qemu:$folder/qmp" --format markdown --output "$report" "${more[@]}" || status=$?
if [ -n "${GITHUB_STEP_SUMMARY:-}" ] && [ -f "$report" ]; then
  cat "$report" >> "$GITHUB_STEP_SUMMARY"
fi
if [ -n "${OUTPUT:-}" ] && [ -f "$report" ]; then
  cp "$report" "$OUTPUT"
fi
exit "$status"
