#!/usr/bin/env bash
# The programs that are not ours, which the tests drive and the bench compares with.
#
# Where this may (root, and apt-get present) it installs what is missing; elsewhere it names what is missing in
# one line, and the tests that need it are skipped by name. With CI=true anything missing is a failure. What no
# package has (nbd-tester-client, libnbd's example programs) is not asked for; what the kernel lacks (fuse, loop)
# is named by the tests that skip for it.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

# program (or file) : the package that has it
wanted=(
  nbdinfo:libnbd-bin nbdcopy:libnbd-bin nbddump:libnbd-bin nbdfuse:libnbd-bin nbdsh:python3-libnbd
  qemu-img:qemu-utils qemu-io:qemu-utils qemu-nbd:qemu-utils qemu-storage-daemon:qemu-system-common
  nbdkit:nbdkit fio:fio nbd-client:nbd-client
  fusermount3:fuse3 losetup:mount fstrim:util-linux
  faketime:faketime
  mkfs.ext4:e2fsprogs debugfs:e2fsprogs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs
)

missing() {
  local pair
  for pair in "${wanted[@]}"; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || echo "${pair##*:}"
  done | sort -u
}

packages=$(missing)
[ -z "$packages" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing: $(echo $packages)"
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  apt-get install -qq -y --no-install-recommends $packages >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages >/dev/null; } ||
    echo "apt-get could not install all of it" >&2
  packages=$(missing)
fi

if [ -n "$packages" ]; then
  echo "not installed, so their tests are skipped: $(echo $packages)" >&2
  [ "${CI:-}" = true ] && exit 1
fi
exit 0
