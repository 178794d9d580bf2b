"""Makes the start of a Linux kernel visible from outside, at every level and without any.

Linux's boot protocol lets a boot loader put code of its own before the kernel ("Advanced Boot Loader
Hooks": the header's code32_start is an address in what was loaded). A copy of the kernel gets
kernel-start.S behind its image and code32_start pointed at it; nothing else in it changes.
"""

import struct
import subprocess
import tempfile
from pathlib import Path

from . import MachineError

SOURCE = Path(__file__).with_name("kernel-start.S")
MARKER = 3  # what Strata's counters are marked with; the guest's init has 1 and 2
SECTOR = 512
SETUP_SECTS, MAGIC, VERSION, CODE32_START, INIT_SIZE = 0x1F1, 0x202, 0x206, 0x214, 0x260
LOADED_AT = 0x100000  # what code32_start counts from
VERSION_MIN = 0x20A  # the first that has init_size
ALIGNMENT = 16
# GRUB's commands that note the time just before "boot". It is left in SYSENTER_EIP, where kernel-start.S finds it: no
# level below takes an exit for that MSR, and GRUB's own output would take hundreds (it reads its clock, with CPUID,
# for each character).
GRUB_STAMP = "rdmsr -v boot_tsc 0x10\nwrmsr 0x176 0x$boot_tsc"


def hook(kernel, out):
    """Write to OUT the bzImage KERNEL that says when it starts."""
    kernel, out = Path(kernel), Path(out)
    made = bytearray(kernel.read_bytes())
    version, = struct.unpack_from("<H", made, VERSION)
    if made[MAGIC:MAGIC + 4] != b"HdrS" or version < VERSION_MIN:
        raise MachineError(f"{kernel}: not a Linux kernel of boot protocol 2.10 or later")
    setup = ((made[SETUP_SECTS] or 4) + 1) * SECTOR
    made += bytes(-(len(made) - setup) % ALIGNMENT)
    place = len(made) - setup
    entry, = struct.unpack_from("<I", made, CODE32_START)
    made += _assemble(entry - LOADED_AT - place)
    init_size, = struct.unpack_from("<I", made, INIT_SIZE)
    if len(made) - setup > init_size:
        raise MachineError(f"{kernel}: leaves no room behind its image")
    struct.pack_into("<I", made, CODE32_START, LOADED_AT + place)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(made)
    return out


def _assemble(back):
    """The code; BACK is from its first byte to the kernel's."""
    with tempfile.TemporaryDirectory() as scratch:
        elf, flat = Path(scratch) / "elf", Path(scratch) / "flat"
        for command in (["gcc", "-m32", "-nostdlib", "-static", "-no-pie", f"-DBACK={back}", f"-DMARKER={MARKER}",
                         "-Wl,--build-id=none,-melf_i386,-Ttext=0,-e,start", "-o", elf, SOURCE],
                        ["objcopy", "-O", "binary", "-j", ".text", elf, flat]):
            try:
                done = subprocess.run(command, capture_output=True, text=True)
            except FileNotFoundError:
                raise MachineError(f"missing tool {command[0]} (Debian package gcc)") from None
            if done.returncode:
                raise MachineError(f"{command[0]} failed: " + " ".join(done.stderr.split())[:300])
        return flat.read_bytes()
