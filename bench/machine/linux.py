"""The Linux guest: Debian's kernel as it is, and an initramfs of busybox, init and strata-stat, for amd64 or i386.

The archive is written here rather than by cpio: device nodes need no root that way, and the same
input gives the same bytes. Kept small, because GRUB reads it through the emulated BIOS.
"""

import gzip
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from . import MachineError, hook, stack

TOP = Path(__file__).resolve().parents[2]
GUEST_FILES = TOP / "tests/linux"


@dataclass
class Arch:
    """Where the guest's parts of one architecture are, and what brings them."""

    kernel: Path
    busybox: Path
    busybox_from: str
    strata_stat: Path
    setup: str


ARCHES = {
    "amd64": Arch(TOP / "build/cache/vmlinuz", Path("/bin/busybox"), "Debian package busybox-static",
                  TOP / "build/strata-stat", "make setup"),
    "i386": Arch(TOP / "build/cache/i386/vmlinuz", TOP / "build/cache/i386/busybox", "make setup ARCH=i386",
                 TOP / "build/strata-stat-i386", "make setup ARCH=i386"),
}

COMMAND_LINE = (
    "console=ttyS0,115200",
    "quiet",  # each character on the serial line costs thousands of ticks; errors still show
    "panic=-1",
    "idle=halt",  # with two CPUs, Bochs 2.7 loses wake-ups from MWAIT: stalls of seconds
    "nokaslr",  # the same addresses in every run, and those of System.map
    "cryptomgr.notests=1",  # half of the boot
)


def command_line(ips=None, extra=""):
    """The kernel's command line; for Bochs that of a machine of IPS ticks per second.

    Bochs's newer models announce the real part's frequency in CPUID 15h/16h, hundreds of times
    the emulated one; believing it, the kernel would make every delay hundreds of times too long.
    """
    frequency = [f"tsc_early_khz={ips // 1000}"] if ips else []
    return " ".join([*COMMAND_LINE, *frequency, *extra.split()])


def program(out_dir, kernel, initrd, command_line):
    """KERNEL with INITRD; GRUB says when it boots, the kernel says when it starts. Writes into OUT_DIR."""
    hooked = hook.hook(kernel, Path(out_dir) / "vmlinuz.hooked")
    return stack.Program({"/boot/vmlinuz": hooked, "/boot/initrd": initrd},
                         f"linux /boot/vmlinuz {command_line}\ninitrd /boot/initrd\n{hook.GRUB_STAMP}\nboot")


def find_kernel(path=None, arch="amd64"):
    """The kernel image: PATH, or the one that bench/setup.sh unpacked."""
    kernel = Path(path) if path else ARCHES[arch].kernel
    if not kernel.is_file():
        raise MachineError(f"no kernel at {kernel}" + ("" if path else f"; run {ARCHES[arch].setup}"))
    with open(kernel, "rb") as f:
        f.seek(0x202)
        if f.read(4) != b"HdrS":
            raise MachineError(f"{kernel} is not a Linux kernel (bzImage)")
    return kernel


def release(kernel):
    """The version that a bzImage says of itself, for example "6.1.0-50-amd64"."""
    with open(kernel, "rb") as f:
        f.seek(0x20E)
        place = int.from_bytes(f.read(2), "little")
        f.seek(0x200 + place)
        return f.read(256).partition(b"\0")[0].decode("ascii", "replace").partition(" ")[0]


def build_initramfs(out, strata_stat=None, extra=None, arch="amd64"):
    """Write the initramfs OUT (a compressed newc archive).

    strata_stat  the program's path; left out of the archive if the file does not exist
    extra        further files: {"name/in/the/guest": path on this machine}
    """
    busybox = ARCHES[arch].busybox
    if not busybox.is_file() or _is_dynamic(busybox):
        raise MachineError(f"missing a static {busybox} ({ARCHES[arch].busybox_from})")
    strata_stat = Path(strata_stat) if strata_stat else ARCHES[arch].strata_stat
    files = {"bin/busybox": busybox, "init": GUEST_FILES / "init"}
    if strata_stat.is_file():
        files["bin/strata-stat"] = strata_stat
    files.update(extra or {})

    archive = _Archive()
    directories = {"bin", "dev", "proc", "sys", "tmp"}
    for name in files:
        directories.update(str(p) for p in Path(name).parents if str(p) != ".")
    for name in sorted(directories):
        archive.add(name, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    for name, source in sorted(files.items()):
        archive.add(name, stat.S_IFREG | 0o755, Path(source).read_bytes())
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".new")
    temporary.write_bytes(gzip.compress(archive.finish(), 9, mtime=0))
    os.replace(temporary, out)


def _is_dynamic(program):
    """An ELF file with an interpreter cannot run alone in an initramfs."""
    return b"ld-linux" in program.read_bytes()[:4096]


class _Archive:
    """A cpio archive in the "newc" form (the kernel's Documentation: initramfs buffer format)."""

    def __init__(self):
        self._parts = []
        self._inode = 0

    def add(self, name, mode, data=b"", device=(0, 0)):
        self._inode += 1
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08x" % f for f in fields)
        self._parts.append(_padded(header + name.encode() + b"\0"))
        self._parts.append(_padded(data))

    def finish(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def _padded(data):
    return data + bytes(-len(data) % 4)
