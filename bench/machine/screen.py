"""The text screen of a PC in QEMU, read from outside: video memory at B8000h, 80 characters by 25 lines."""

from dataclasses import dataclass
from pathlib import Path

MEMORY, COLUMNS, LINES = 0xB8000, 80, 25
SIZE = 2 * COLUMNS * LINES


@dataclass(frozen=True)
class Screen:
    """lines  the characters; colours  each line's attribute bytes"""

    lines: tuple
    colours: tuple

    def line_with(self, text):
        """The number of the first line that holds TEXT; None if there is none."""
        return next((n for n, line in enumerate(self.lines) if text in line), None)

    def highlighted(self, among):
        """Of the line numbers AMONG, the one in other colours than the rest; None if not exactly one is."""
        own = {n: _usual(self.colours[n]) for n in among}
        odd = [n for n in own if list(own.values()).count(own[n]) == 1]
        return odd[0] if len(odd) == 1 and len(own) > 2 else None


def _usual(colours):
    return max(set(colours), key=colours.count)


def decode(memory):
    rows = [memory[2 * COLUMNS * n:2 * COLUMNS * (n + 1)] for n in range(LINES)]
    return Screen(tuple(row[::2].decode("cp437") for row in rows), tuple(row[1::2] for row in rows))


def read(monitor, scratch):
    """The screen as it is now; SCRATCH is a file that QEMU may write."""
    monitor.execute("pmemsave", val=MEMORY, size=SIZE, filename=str(scratch))
    return decode(Path(scratch).read_bytes())
