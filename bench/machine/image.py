"""Bootable disk images, made with GRUB 2's own parts and no root, loop device or mount.

A disk is: GRUB's boot.img, a core image holding its commands (no menu, no delay), and one FAT
partition with the files. GRUB reads through the emulated BIOS, which is slow, so the core has
only the modules that its commands need. The same image boots as any BIOS drive: GRUB takes its
root from the drive number that it was started with.
"""

import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from . import MachineError

SECTOR = 512
HEADS, SECTORS_PER_TRACK = 16, 63
CYLINDER = HEADS * SECTORS_PER_TRACK * SECTOR
PARTITION_START = 1 << 20  # bytes; the core image lives below
CLUSTER = 32 << 10  # GRUB's disk cache unit: aligned reads of it are not copied a second time
GRUB_DIR = Path("/usr/lib/grub/i386-pc")
EFI_GRUB_DIR = Path("/usr/lib/grub/x86_64-efi")
BASE_MODULES = ("biosdisk", "part_msdos", "fat")
EFI_BASE_MODULES = ("part_msdos", "fat", "serial")
EFI_PROGRAM = "/EFI/BOOT/BOOTX64.EFI"  # what firmware starts from a disk that it knows nothing of
FAT16, EFI_SYSTEM = 0x0E, 0xEF  # partition types
MODULE_OF_COMMAND = {  # the rest have a module of their own name
    "linux": "linux", "initrd": "linux", "module2": "multiboot2", "module": "multiboot",
    "chainloader": "chain", "echo": "echo", "boot": "boot", "terminal_output": "terminal",
}
BUILTIN_COMMANDS = {"set", "unset", "insmod", "ls"}
BUILT_WITH = {"grub-mkimage": "grub-common", "mformat": "mtools", "mcopy": "mtools"}


def grub_disk(out, files, cfg, modules=()):
    """Write the disk image OUT: GRUB runs the lines of CFG, finding FILES on its partition.

    files    {"/boot/strata.elf": path on this machine, ...}
    cfg      GRUB commands, one per line, no shell syntax (GRUB's `normal` is left out)
    modules  GRUB modules beyond those that the commands of CFG name
    """
    out = Path(out)
    for tool, package in BUILT_WITH.items():
        if not shutil.which(tool):
            raise MachineError(f"missing tool {tool} (Debian package {package})")
    if not (GRUB_DIR / "boot.img").is_file():
        raise MachineError(f"missing {GRUB_DIR}/boot.img (Debian package grub-pc-bin)")
    for source in files.values():
        if not os.path.isfile(source):
            raise MachineError(f"missing file {source}, wanted on {out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=out.name, dir=out.parent) as scratch:
        core = _core_image(Path(scratch), cfg, modules)
        part = _fat_image(Path(scratch), files)
        disk = Path(scratch) / "disk"
        _assemble(disk, (GRUB_DIR / "boot.img").read_bytes(), core.read_bytes(), part)
        os.replace(disk, out)


def efi_disk(out, files, cfg):
    """The same for UEFI: one FAT partition with GRUB for EFI as the program that firmware starts by itself."""
    out = Path(out)
    if not (EFI_GRUB_DIR / "moddep.lst").is_file():
        raise MachineError(f"missing {EFI_GRUB_DIR} (Debian package grub-efi-amd64-bin)")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=out.name, dir=out.parent) as scratch:
        script, program, disk = (Path(scratch) / name for name in ("grub.cfg", "grub.efi", "disk"))
        script.write_text(cfg.rstrip() + "\n")
        _tool("grub-mkimage", "-O", "x86_64-efi", "-d", EFI_GRUB_DIR, "-p", "(,msdos1)/boot/grub", "-c", script, "-o", program,
              *modules_for(cfg, EFI_BASE_MODULES))
        _assemble(disk, b"", b"", _fat_image(Path(scratch), {EFI_PROGRAM: program, **files}))
        os.replace(disk, out)


def modules_for(cfg, base=BASE_MODULES):
    """The GRUB modules that the commands in CFG need."""
    commands = {line.split()[0] for line in cfg.splitlines()
                if line.strip() and not line.lstrip().startswith("#")}
    commands = {c for c in commands if "=" not in c} - BUILTIN_COMMANDS
    return sorted(set(base) | {MODULE_OF_COMMAND.get(c, c) for c in commands})


def _core_image(scratch, cfg, modules):
    script = scratch / "grub.cfg"
    script.write_text(cfg.rstrip() + "\n")
    core = scratch / "core.img"
    _tool("grub-mkimage", "-O", "i386-pc", "-d", GRUB_DIR, "-p", "(,msdos1)/boot/grub",
          "-c", script, "-o", core, *modules_for(cfg), *modules)
    if core.stat().st_size > PARTITION_START - SECTOR:
        raise MachineError("GRUB's core image does not fit before the first partition")
    return core


def _fat_image(scratch, files):
    """One FAT file system, just large enough."""
    part = scratch / "part"
    content = sum(_round_up(os.path.getsize(p), CLUSTER) for p in files.values())
    size = _round_up(content + (1 << 20), CYLINDER)
    _format(part, size, reserved=1)
    misaligned = _first_cluster(part) % CLUSTER // SECTOR
    if misaligned:
        _format(part, size, reserved=1 + CLUSTER // SECTOR - misaligned)
    made = set()
    for name, source in files.items():
        for parent in reversed(Path(name).parents[:-1]):
            if parent not in made:
                _tool("mmd", "-i", part, f"::{parent}")
                made.add(parent)
        _tool("mcopy", "-i", part, source, f"::{name}")
    return part


def _format(part, size, reserved):
    with open(part, "wb") as f:
        f.truncate(size)
    _tool("mformat", "-i", part, "-h", HEADS, "-s", SECTORS_PER_TRACK, "-t", size // CYLINDER,
          "-H", PARTITION_START // SECTOR, "-N", "0", "-c", CLUSTER // SECTOR,
          "-R", reserved, "::")


def _first_cluster(part):
    """The offset of the data area, from the fields of the boot sector that say it."""
    with open(part, "rb") as f:
        sector = f.read(SECTOR)
    reserved, fats, root_entries = struct.unpack_from("<HBH", sector, 14)
    fat_sectors, = struct.unpack_from("<H", sector, 22)
    return (reserved + fats * fat_sectors) * SECTOR + root_entries * 32


def _assemble(disk, boot, core, part):
    """BOOT is code for the boot sector, CORE what follows it; an EFI disk has neither."""
    with open(disk, "wb") as f:
        f.write(_boot_sector(boot, PARTITION_START // SECTOR, part.stat().st_size // SECTOR))
        f.write(core)
        f.seek(PARTITION_START)
        with open(part, "rb") as p:
            shutil.copyfileobj(p, f)
        f.truncate(_round_up(f.tell(), CYLINDER))


def _boot_sector(code, start, sectors):
    """CODE (GRUB's boot.img) with one active FAT16 partition, START and SECTORS in sectors; no code: EFI's partition.

    boot.img looks for the core at sector 1 and the core's own block list, written by
    grub-mkimage, goes on at sector 2: nothing has to be patched.
    """
    boot = bytearray(code or bytes(SECTOR))
    entry = struct.pack("<B3sB3sII", 0x80 if code else 0, b"\xfe\xff\xff", FAT16 if code else EFI_SYSTEM, b"\xfe\xff\xff",
                        start, sectors)
    boot[446:510] = entry + bytes(48)
    boot[510:512] = b"\x55\xaa"
    return bytes(boot)


def _tool(*argv):
    argv = [str(a) for a in argv]
    # Fixed times in the file system: equal input gives an equal image, byte for byte.
    fixed = dict(os.environ, SOURCE_DATE_EPOCH="1700000000", TZ="UTC")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          env=fixed)
    if done.returncode:
        said = re.sub(r"\s+", " ", done.stderr).strip()
        raise MachineError(f"{argv[0]} failed: {said or 'exit ' + str(done.returncode)}")


def _round_up(value, unit):
    return (value + unit - 1) // unit * unit
