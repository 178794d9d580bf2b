"""Makes the start of a Linux kernel visible from outside, at every level and without any.

Linux's boot protocol lets a boot loader put code of its own before the kernel ("Advanced Boot Loader
Hooks": the header's code32_start is an address in what was loaded). A copy of the kernel gets
kernel-start.S behind its image and code32_start pointed at it; nothing else in it changes.
"""

import struct
from pathlib import Path

from . import MachineError, assemble

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
    # BACK is from the first byte of the code to the kernel's.
    made += assemble.flat(SOURCE, 0, start="start", BACK=entry - LOADED_AT - place, MARKER=MARKER)
    init_size, = struct.unpack_from("<I", made, INIT_SIZE)
    if len(made) - setup > init_size:
        raise MachineError(f"{kernel}: leaves no room behind its image")
    struct.pack_into("<I", made, CODE32_START, LOADED_AT + place)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(made)
    return out
