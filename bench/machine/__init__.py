"""The emulated PC that Strata is developed on: its disks, its guests, its runs.

image.py builds GRUB disks, linux.py the Linux guest, bochs.py starts and always ends the
emulator, watch.py follows the serial line. Nothing here knows what a scenario is for.
"""


class MachineError(Exception):
    """Something a user can put right; the text is one complete line."""
