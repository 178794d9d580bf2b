#!/bin/sh
# Sets this machine up for Strata: installs what is missing from Debian's own
# packages and unpacks Debian's cloud kernel (not installed) into build/cache/.
# With --for xen also Xen, its programs and Debian's usual kernel, into build/cache/xen/.
# With --arch i386 also Debian's 686-pae kernel and busybox, into build/cache/i386/;
# dpkg then knows the architecture i386 (apt fetches no package of one it does not know).
# Asks nothing; says one line per missing package; a second call only checks.
# Must never touch anything but Debian packages and build/cache/.
#
# usage: bench/setup.sh [--for run|test|kvm|xen|bench|perf|debug|deb|debian|coverage] [--arch amd64|i386]
# shellcheck disable=SC2086  # lists of words on purpose
set -eu

usage() {
    echo "usage: $0 [--for run|test|kvm|xen|bench|perf|debug|deb|debian|coverage] [--arch amd64|i386]" >&2
    exit 2
}

purpose=run
arch=amd64
while [ $# -gt 0 ]; do
    case $1 in
    --for=*) purpose=${1#*=} ;;
    --arch=*) arch=${1#*=} ;;
    --for | --arch)
        [ $# -gt 1 ] || usage
        [ "$1" = --for ] && purpose=$2 || arch=$2
        shift
        ;;
    *) usage ;;
    esac
    shift
done

# libc6-dev, because gcc only recommends it and recommendations are left out.
run_packages="gcc libc6-dev make python3 grub-pc-bin grub-common mtools bochs bochsbios
    vgabios busybox-static"
test_packages="libcmocka-dev clang libclang-rt-dev gcc-multilib cppcheck
    clang-format clang-tidy qemu-system-x86 ovmf grub-efi-amd64-bin"
# GUEST=kvm: what L2's disk is filled with. Both are only run inside the emulator.
kvm_packages="ovmf grub-efi-amd64-bin qemu-system-x86 linux-perf"
debug_packages=gdb
bench_packages="python3-jsonschema python3-matplotlib"
# Another machine than Bochs: QEMU with KVM, and its counters.
perf_packages="qemu-system-x86 linux-perf python3-jsonschema"
# strata-stat for i386. gcc-multilib only recommends the 32-bit C library.
i386_packages="gcc-multilib libc6-dev-i386"

deb_packages="dpkg-dev debhelper lintian"
# A disk with an installed Debian.
debian_packages="debootstrap fdisk e2fsprogs util-linux mount"

case $purpose in
run) packages=$run_packages ;;
test) packages="$run_packages $test_packages" ;;
coverage) packages="$run_packages $test_packages llvm" ;;
kvm) packages="$run_packages $kvm_packages" ;;
deb) packages="$run_packages $deb_packages" ;;
debian) packages="$run_packages $deb_packages $debian_packages" ;;
xen) packages=$run_packages ;; # what Xen's programs need is added below
bench) packages="$run_packages $bench_packages" ;;
perf) packages="$run_packages $perf_packages" ;;
debug) packages="$run_packages $debug_packages" ;;
*) usage ;;
esac
case $arch in
amd64) ;;
i386) packages="$packages $i386_packages" ;;
*) usage ;;
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
    apt-cache depends --no-recommends --no-suggests "$1" 2>/dev/null |
        sed -n 's/^ *Depends: *<\{0,1\}\(linux-image-[^ >]*\)>\{0,1\}$/\1/p' | head -n 1
}

# Unpacks Debian package $1 into the directory $2; $3 is its name in messages.
unpack() {
    rm -rf "$cache/download" "$2"
    mkdir -p "$cache/download"
    (cd "$cache/download" &&
        logged apt-get -q -o APT::Sandbox::User="$(id -un)" download "$1") || return 1
    logged dpkg -x "$cache"/download/*.deb "$2" || die "cannot unpack $3, see $log"
    rm -rf "$cache/download"
    echo "setup: unpacked $3"
}

# fetch FILE DIRECTORY PACKAGE INSIDE: FILE becomes a copy of what INSIDE (a pattern) names in
# the package, which stays unpacked in DIRECTORY. FILE is the stamp: it appears last, and all at once.
fetch() {
    [ ! -s "$1" ] || return 0
    echo "setup: missing $3 (unpacked into build/cache, not installed)"
    if ! unpack_real "$3" "$2"; then
        [ -z "$cannot_install" ] || die "cannot download $3: $cannot_install"
        refresh_lists
        unpack_real "$3" "$2" || die "cannot download $3, see $log"
    fi
    file=$1 package=$3
    set -- "$2"/$4
    [ -s "$1" ] || die "$package holds no ${1#"$cache"/}"
    cp "$1" "$file.new"
    mv "$file.new" "$file"
}

unpack_real() {
    real=$1
    case $1 in
    linux-image-*)
        real=$(real_kernel_package "$1")
        [ -n "$real" ] || return 1
        ;;
    esac
    unpack "$real" "$2" "$real"
}

# The version of Xen that this release of Debian has, for example 4.17: it is part of its packages' names.
find_xen() {
    apt-cache depends xen-system-amd64 2>/dev/null | sed -n 's/^ *Depends: *xen-hypervisor-\([0-9.]*\)-amd64$/\1/p' | head -n 1
}

# Xen, its programs and dom0's kernel are unpacked; the libraries of its programs are installed.
fetch_xen() {
    xen=$(find_xen)
    [ -n "$xen" ] || [ -n "$cannot_install" ] || refresh_lists
    xen=${xen:-$(find_xen)}
    [ -n "$xen" ] || die "no package xen-system-amd64 in apt's lists"
    packages=$(apt-cache depends "xen-utils-$xen" | sed -n 's/^ *Depends: *\(lib[^ ]*\)$/\1/p')
    install_packages
    mkdir -p "$cache/xen"
    fetch "$cache/xen/vmlinuz" "$cache/xen/kernel" linux-image-amd64 'boot/vmlinuz-*' # the cloud kernel cannot be dom0
    fetch "$cache/xen/xen.gz" "$cache/xen/hypervisor" "xen-hypervisor-$xen-amd64" 'boot/xen-*-amd64.gz'
    fetch "$cache/xen/xl" "$cache/xen/utils" "xen-utils-$xen" 'usr/lib/xen-*/bin/xl'
}

know_i386() {
    case " $(dpkg --print-foreign-architectures | tr '\n' ' ')" in
    *" i386 "*) return 0 ;;
    esac
    echo "setup: missing architecture i386 in dpkg"
    [ -z "$cannot_install" ] || die "$cannot_install; as root: dpkg --add-architecture i386"
    logged $as_root dpkg --add-architecture i386 || die "dpkg --add-architecture i386 failed, see $log"
    refresh_lists
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
fetch "$cache/vmlinuz" "$cache/kernel" linux-image-cloud-amd64 'boot/vmlinuz-*'
[ "$purpose" != xen ] || fetch_xen
if [ $arch = i386 ] && ! { [ -s "$cache/i386/vmlinuz" ] && [ -s "$cache/i386/busybox" ]; }; then
    know_i386
    mkdir -p "$cache/i386"
    fetch "$cache/i386/vmlinuz" "$cache/i386/kernel" linux-image-686-pae:i386 'boot/vmlinuz-*'
    fetch "$cache/i386/busybox" "$cache/i386/busybox-package" busybox-static:i386 'bin/busybox'
fi
