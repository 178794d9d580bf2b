"""L2's disks when Xen is the guest hypervisor: GRUB with Xen and dom0's Linux, and an archive with Xen's programs.

Xen and its programs are Debian's, unpacked and not installed (bench/setup.sh --for xen). dom0 has Debian's usual
kernel, because the cloud kernel cannot be dom0; Xen's guest has the cloud kernel.
"""

import gzip
import lzma
import struct
from pathlib import Path

from kvm import disk
from machine import MachineError, linux, stack

TOP = Path(__file__).resolve().parents[2]
CACHE = TOP / "build/cache/xen"
XEN, KERNEL, MODULES = CACHE / "xen.gz", CACHE / "vmlinuz", CACHE / "kernel"
UTILS = CACHE / "utils"
PROGRAMS = ("xl", "xenstored", "xenconsoled", "xenconsole", "xen-init-dom0")
IPS = 50_000_000  # ticks per emulated second: with fewer, timers of three kernels take much of the time
WANTED = ("ata_piix", "sd_mod", "xen-evtchn", "xen-gntdev", "xen-privcmd", "xenfs")
COMMAND_LINE = (
    "console=com1", "com1=115200,8n1",
    "loglvl=warning", "guest_loglvl=warning",
    "noreboot",  # after a panic it stops, so that its words are the last
    "mwait-idle=no",  # with two CPUs, Bochs 2.7 loses wake-ups from MWAIT
    "x2apic_phys",  # Bochs 2.7 gives no logical x2APIC IDs
    "dom0_mem=320M,max:320M",
)
# dom0 needs no word of the TSC's frequency: Xen has measured it.
DOM0_COMMAND_LINE = (
    "console=hvc0", "quiet", "panic=-1", "nokaslr", "cryptomgr.notests=1",
    "rodata=off",  # else it looks through all its page tables, Xen's part of them included, a tenth of its boot
)
PAYLOAD_OFFSET, SETUP_SECTS, SECTOR = 0x248, 0x1F1, 512  # in a bzImage's header
LIBGCC = Path("/lib/x86_64-linux-gnu/libgcc_s.so.1")  # glibc loads it by name when a thread is cancelled


def programs_inside():
    """The folder of Xen's programs in their package; its name has Xen's version, for example "usr/lib/xen-4.17/bin"."""
    found = sorted(UTILS.glob("usr/lib/xen-*/bin"))
    if len(found) != 1:
        raise MachineError(f"{len(found)} versions of Xen's programs in {UTILS}; run bench/setup.sh --for xen")
    return str(found[0].relative_to(UTILS))


def check():
    """Raise a MachineError for what bench/setup.sh has not brought."""
    for path in (XEN, KERNEL, *(UTILS / programs_inside() / name for name in PROGRAMS)):
        if not path.is_file():
            raise MachineError(f"missing {path}; run bench/setup.sh --for xen")


def program(out_dir, words):
    """Xen with dom0. Of WORDS those that begin with "xen." are Xen's own. Writes into OUT_DIR."""
    check()
    out_dir = Path(out_dir)
    xen, initrd, dom0 = (out_dir / name for name in ("xen.elf", "initrd.gz", "vmlinux"))
    xen.write_bytes(gzip.decompress(XEN.read_bytes()))
    disk.build_initramfs(initrd, TOP / "tests/linux/xen-init", WANTED, MODULES)
    dom0.write_bytes(_unpacked(KERNEL))
    own = [w.removeprefix("xen.") for w in words.split() if w.startswith("xen.")]
    rest = [w for w in words.split() if not w.startswith("xen.")]
    # Not multiboot2: GRUB 2.06 then sets the graphics mode that Xen's header allows, and on Bochs its heap is broken afterwards.
    return stack.Program({"/boot/xen": xen, "/boot/vmlinux": dom0, "/boot/initrd": initrd},
                         f"multiboot /boot/xen {' '.join([*COMMAND_LINE, *own])}\n"
                         f"module /boot/vmlinux {' '.join([*DOM0_COMMAND_LINE, *rest])}\n"
                         "module /boot/initrd\nboot")


def build(out, kernel):
    """Write the archive OUT: Xen's programs with their libraries, and Xen's guest with KERNEL."""
    out = Path(out)
    initrd = out.with_name("l3-initrd.gz")
    linux.build_initramfs(initrd, extra={"init": disk.SCENARIOS / "l3-init"})
    files = {"xen/vmlinuz": kernel, "xen/initrd": initrd}
    inside = programs_inside()
    for name in PROGRAMS:
        program = UTILS / inside / name
        files[f"{inside}/{name}"] = program
        files |= {str(p).lstrip("/"): p for p in (LIBGCC, *disk.libraries(program, "xen"))}
    disk.write(out, files)


def _unpacked(kernel):
    """The ELF file inside a bzImage compressed with xz: Xen takes billions of instructions to unpack it."""
    data = kernel.read_bytes()
    offset, length = struct.unpack_from("<II", data, PAYLOAD_OFFSET)
    start = (data[SETUP_SECTS] + 1) * SECTOR + offset
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data[start:start + length])
    except lzma.LZMAError:
        raise MachineError(f"{kernel}: not compressed with xz") from None
