"""The emulated PC that Strata is developed on: its disks, its guests, its runs.

image.py builds GRUB disks, linux.py the Linux guest (hook.py shows when its kernel starts); bochs.py and qemu.py
are machines, which process.py starts and always ends; watch.py follows the serial line. qmp.py speaks with QEMU,
perf.py counts what KVM does below. Nothing here knows what a scenario is for.
"""


class MachineError(Exception):
    """Something a user can put right; the text is one complete line."""
