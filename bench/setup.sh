#!/bin/sh
# Sets this machine up for Strata: installs what is missing from Debian's own
# packages and unpacks Debian's cloud kernel (not installed) into build/cache/.
# Asks nothing; says one line per missing package; a second call only checks.
# Must never touch anything but Debian packages and build/cache/.
#
# usage: bench/setup.sh [--for run|test|kvm|bench]
# shellcheck disable=SC2086  # lists of words on purpose
set -eu

purpose=run
case "${1-}" in
"") ;;
--for) purpose=${2-} ;;
--for=*) purpose=${1#--for=} ;;
*) purpose= ;;
esac

# libc6-dev, because gcc only recommends it and recommendations are left out.
run_packages="gcc libc6-dev make python3 grub-pc-bin grub-common mtools bochs bochsbios
    vgabios busybox-static"
test_packages="libcmocka-dev clang libclang-rt-14-dev gcc-multilib cppcheck
    clang-format clang-tidy qemu-system-x86"
# GUEST=kvm: what L2's disk is filled with. Both are only run inside the emulator.
kvm_packages="qemu-system-x86 linux-perf"
bench_packages="python3-jsonschema python3-matplotlib"
kernel_package=linux-image-cloud-amd64

case $purpose in
run) packages=$run_packages ;;
test) packages="$run_packages $test_packages" ;;
kvm) packages="$run_packages $kvm_packages" ;;
bench) packages="$run_packages $bench_packages" ;;
*)
    echo "usage: $0 [--for run|test|kvm|bench]" >&2
    exit 2
    ;;
esac

top=$(cd "$(dirname "$0")/.." && pwd)
cache=$top/build/cache
log=$cache/setup.log

die() {
    echo "setup: $*" >&2
    exit 1
}

# Everything apt says goes to a log: a user wants one line, not a hundred.
logged() {
    echo "+ $*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null
}

is_installed() {
    case $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) in
    installed) return 0 ;;
    *) return 1 ;;
    esac
}

# The lists are fetched at most once in a call, and only when something is missing.
lists_are_fresh=
refresh_lists() {
    [ -z "$lists_are_fresh" ] || return 0
    lists_are_fresh=yes
    logged $as_root apt-get -q -o DPkg::Lock::Timeout=300 update ||
        echo "setup: apt-get update failed (see $log); trying with the lists at hand" >&2
}

install_packages() {
    missing=
    for p in $packages; do
        is_installed "$p" || missing="$missing $p"
    done
    [ -n "$missing" ] || return 0
    for p in $missing; do
        echo "setup: missing package $p"
    done
    [ -z "$cannot_install" ] ||
        die "$cannot_install; as root: apt-get install$missing"
    refresh_lists
    logged $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        --no-install-recommends -o DPkg::Lock::Timeout=300 install $missing ||
        die "apt-get install failed, see $log; missing:$missing"
    echo "setup: installed$missing"
}

# The meta package depends on exactly one real image; its name has the version.
real_kernel_package() {
    apt-cache depends --no-recommends --no-suggests "$kernel_package" 2>/dev/null |
        sed -n 's/^ *Depends: *\(linux-image-[^ ]*\)$/\1/p' | head -n 1
}

download_kernel() {
    real=$(real_kernel_package)
    [ -n "$real" ] || return 1
    rm -rf "$cache/download"
    mkdir -p "$cache/download"
    (cd "$cache/download" &&
        logged apt-get -q -o APT::Sandbox::User="$(id -un)" download "$real")
}

# build/cache/vmlinuz is the stamp: it appears last, and all at once.
fetch_kernel() {
    [ ! -s "$cache/vmlinuz" ] || return 0
    echo "setup: missing kernel $kernel_package (unpacked into build/cache, not installed)"
    if ! download_kernel; then
        [ -z "$cannot_install" ] || die "cannot download $kernel_package: $cannot_install"
        refresh_lists
        download_kernel || die "cannot download $kernel_package, see $log"
    fi
    rm -rf "$cache/kernel"
    logged dpkg -x "$cache"/download/*.deb "$cache/kernel" ||
        die "cannot unpack $real, see $log"
    rm -rf "$cache/download"
    set -- "$cache"/kernel/boot/vmlinuz-*
    [ -s "$1" ] || die "$real holds no /boot/vmlinuz-*"
    cp "$1" "$cache/vmlinuz.new"
    mv "$cache/vmlinuz.new" "$cache/vmlinuz"
    echo "setup: unpacked $real"
}

as_root=
cannot_install=
if [ "$(id -u)" != 0 ]; then
    as_root="sudo -n"
    command -v sudo >/dev/null && sudo -n true 2>/dev/null ||
        cannot_install="not root, and no sudo without a password"
fi
for tool in dpkg-query apt-get apt-cache; do
    command -v $tool >/dev/null || die "$tool not found: this needs Debian 12 or a relative"
done

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9 # two makes at once: the second waits and finds all done
install_packages
fetch_kernel
