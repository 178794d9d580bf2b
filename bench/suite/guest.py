"""The guest of exit-cost (bench/guests): its image, and a disk that boots it."""

import subprocess

from machine import MachineError, stack
from .setup import TOP

IMAGE = TOP / "build/bench/exit-cost.elf"


def build():
    done = subprocess.run(["make", "-s", "-C", TOP, "-f", "bench/guests/guests.mk", IMAGE.relative_to(TOP)],
                          capture_output=True, text=True)
    if done.returncode:
        raise MachineError("exit-cost.elf cannot be built: " + " ".join(done.stderr.split())[:300])


def program(words):
    """The guest with WORDS ({"items": "guest,nested", ...}) where they are not empty."""
    said = " ".join(f"{name}={value}" for name, value in words.items() if value)
    return stack.Program({"/boot/guest.elf": IMAGE}, f"multiboot2 /boot/guest.elf {said}".rstrip() + "\nboot")
