"""Stratas under each other with what runs on them, as disks; in the order of BIOS drives.

Two ways: "modules", one disk whose GRUB loads every level and what runs on them at once; "disks", one disk a level and one
for what runs on them, each with a GRUB of its own, which boots the next.
"""

from dataclasses import dataclass
from pathlib import Path

from . import image

WAYS = ("modules", "disks")
STRATA = "/boot/strata.elf"
# GRUB's commands that load something, when it is to be loaded for a Strata instead.
LOADING = ("linux", "initrd", "multiboot", "module", "multiboot2", "module2")


@dataclass
class Program:
    """What runs on the Stratas: files, and GRUB's commands that start it without any."""

    files: dict  # {"/boot/vmlinuz": path on this machine, ...}
    commands: str

    def as_modules(self):
        lines = [line.split(" ", 1) for line in self.commands.splitlines()]
        return "\n".join(" ".join(["module2", *rest] if word in LOADING else [word, *rest]) for word, *rest in lines)


def _line(command, options):
    return f"{command} {STRATA} {options}".rstrip()


def strata_disks(way, out_dir, image_path, options):
    """Disks of Stratas that in the end boot the next disk. OPTIONS: one text for each level, L1 first."""
    out_dir, files = Path(out_dir), {STRATA: image_path}
    if way == "modules" and options:
        image.grub_disk(out_dir / "strata.img", files, "\n".join([*_lines(options), "boot"]))
        return [out_dir / "strata.img"]
    disks = []
    for level, words in enumerate(options, 1):
        disks.append(out_dir / f"strata-{level}.img")
        image.grub_disk(disks[-1], files, _line("multiboot2", words) + "\nboot")
    return disks


def program_disk(path, program):
    """Writes the disk PATH, whose GRUB starts PROGRAM; gives PATH."""
    image.grub_disk(path, program.files, program.commands)
    return path


def disks(way, out_dir, image_path, options, program, name, firmware="bios"):
    """Disks that start PROGRAM on Stratas with OPTIONS (as above; none: on none). NAME.img is the one that holds it."""
    path = Path(out_dir) / f"{name}.img"
    if firmware == "uefi":
        return [_efi_disk(path, image_path, options, program)]
    if way == "disks" or not options:
        return [*strata_disks("disks", out_dir, image_path, options), program_disk(path, program)]
    image.grub_disk(path, {STRATA: image_path, **program.files}, "\n".join([*_lines(options), program.as_modules()]))
    return [path]


def _efi_disk(path, image_path, options, program):
    """On UEFI there is no next drive that Strata could boot: always modules."""
    files = {STRATA: image_path, **program.files} if options else program.files
    image.efi_disk(path, files, "\n".join([*_lines(options), program.as_modules() if options else program.commands]))
    return path


def _lines(options):
    return [_line("module2" if level else "multiboot2", words) for level, words in enumerate(options)]
