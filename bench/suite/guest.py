"""The guest of exit-cost (bench/guests): its image, and a disk that boots it."""

import subprocess

from machine import MachineError, image
from .setup import TOP

IMAGE = TOP / "build/bench/exit-cost.elf"


def build():
    done = subprocess.run(["make", "-s", "-C", TOP, "-f", "bench/guests/guests.mk", IMAGE.relative_to(TOP)],
                          capture_output=True, text=True)
    if done.returncode:
        raise MachineError("exit-cost.elf cannot be built: " + " ".join(done.stderr.split())[:300])


def disk(path, words):
    """Write the disk PATH, whose GRUB boots the guest with WORDS ({"items": "guest,nested", ...}) where they are not
    empty; gives PATH."""
    said = " ".join(f"{name}={value}" for name, value in words.items() if value)
    image.grub_disk(path, {"/boot/guest.elf": IMAGE}, f"multiboot2 /boot/guest.elf {said}".rstrip() + "\nboot")
    return path
