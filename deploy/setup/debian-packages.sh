#!/bin/sh
# Installs the Debian packages that v2c, its lab and its tests need: only those that are missing.
# One line per purpose; `--list` prints the names and installs nothing.
set -eu

# The data path: nbdkit runs the sources, libnbd copies, qemu-nbd writes QCOW2.
packages="nbdkit nbdkit-plugin-python libnbd-bin python3-libnbd qemu-utils"
# Conversion: virt-v2v-in-place, libguestfs and the kernel its appliance boots.
packages="$packages virt-v2v libguestfs-tools supermin qemu-system-x86 ovmf linux-image-amd64"
# The lab: its VDDK library is compiled here, its guest is built from these.
packages="$packages gcc libc6-dev libnbd-dev busybox-static grub-common grub-pc-bin grub-efi-amd64-bin"
packages="$packages mtools dosfstools e2fsprogs fdisk kmod cpio zstd"
# Set-up and tests.
packages="$packages python3 python3-venv ca-certificates git procps util-linux"

if [ "${1:-}" = --list ]; then
  printf '%s\n' $packages
  exit 0
fi

missing=""
for package in $packages; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
  echo "Debian packages: all installed"
  exit 0
fi

as_root=""
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "These Debian packages are missing, and only root can install them:$missing" >&2
    echo "Run as root: apt-get install --no-install-recommends$missing" >&2
    exit 1
  fi
  as_root=sudo
fi
echo "Debian packages: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# Recommended packages would bring a desktop's worth of things nobody here needs.
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
