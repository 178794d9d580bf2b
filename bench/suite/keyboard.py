"""grub-keyboard: from a key press until GRUB has redrawn its menu, in ticks.

The disk is GRUB's with two things in front: a boot sector (bench/guests/keyboard/loader.S) that
leaves a resident program in memory, which presses the keys and takes the time (resident.S says
what is stamped). "arrived" contains what the keyboard controller takes to raise its interrupt.
Exits are those of all presses of a phase, GRUB's waiting in between included.
"""

import re
import statistics

from machine import MachineError, assemble, image, watch
from .result import Run, count_rows, l0_rows, metric
from .setup import TOP

NAME = "grub-keyboard"
SOURCES = TOP / "bench/guests/keyboard"
GRUB_SECTOR, RESIDENT_SECTOR, RESIDENT_SECTORS = 2040, 2041, 7
LOADER_MAX, PRESSES_MAX = 440, 250
END, MENU, LINE, PRESS, MARK = range(5)
DOWN, UP, LETTER_A, LETTER_B, LETTER_C = 0x50, 0x48, 0x1E, 0x30, 0x2E
PHASES = {"menu": (1, 2), "line": (3, 4)}  # between these markers
KEY = re.compile(r"bench-key: ([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8})")
MENU_TEXT = "set timeout=60\nset default=0\n" + "".join(
    f"menuentry 'entry {n}' {{\n true\n}}\n" for n in range(1, 5))


def check(setup):
    if setup.smp != 1:
        raise MachineError(f"{NAME} is measured with one CPU")


def script(presses):
    """Two thirds in the menu, the rest on the command line."""
    lines = presses // 3
    steps = [(MARK, 1)]
    steps += [(MENU, (DOWN, UP)[n % 2]) for n in range(presses - lines)]
    steps += [(MARK, 2), (PRESS, LETTER_C), (PRESS, LETTER_A), (MARK, 3)]
    steps += [(LINE, (LETTER_A, LETTER_B)[n % 2]) for n in range(lines)]
    return bytes(b for step in steps + [(MARK, 4), (END, 0)] for b in step)


def run(setup, out_dir, progress, presses=100):
    if not 1 <= presses <= PRESSES_MAX:
        raise MachineError(f"{presses} presses: 1 to {PRESSES_MAX}")
    out_dir.mkdir(parents=True, exist_ok=True)
    disks = setup.strata_disks(out_dir)
    disk = out_dir / "keyboard.img"
    _build(disk, out_dir, presses)
    seen = _Watch(setup, progress)
    verdict = setup.run(disks + [disk], out_dir, seen.feed, seen.tick)
    return seen.result(verdict, presses)


def _build(disk, out_dir, presses):
    loader = assemble.flat(SOURCES / "loader.S", 0x7C00)
    resident = assemble.flat(SOURCES / "resident.S", 0) + script(presses)
    if len(loader) > LOADER_MAX or len(resident) > RESIDENT_SECTORS * image.SECTOR:
        raise MachineError(f"{NAME}: the programs do not fit ({len(loader)}, {len(resident)})")
    menu = out_dir / "grub.cfg"
    menu.write_text(MENU_TEXT)
    image.grub_disk(disk, {"/boot/grub/grub.cfg": menu}, "normal", ("test", "true"))
    with open(disk, "r+b") as f:
        sector = f.read(image.SECTOR)
        f.seek(GRUB_SECTOR * image.SECTOR)
        if any(f.read((1 + RESIDENT_SECTORS) * image.SECTOR)):
            raise MachineError(f"{NAME}: GRUB's core image leaves no room")
        f.seek(GRUB_SECTOR * image.SECTOR)
        f.write(sector + resident)
        f.seek(0)
        f.write(loader)  # the partition table behind it stays


class _Watch(watch.Watch):
    """Strata's lines as usual, and the resident program's."""

    def __init__(self, setup, progress):
        super().__init__(setup.levels, progress)
        self.presses, self._ended = [], False

    def feed(self, data):
        super().feed(data)
        return self._ended

    def line(self, text):
        found = KEY.search(text)
        if found:
            self.presses.append(tuple(int(word, 16) for word in found.groups()))
        elif "bench-end: grub-keyboard" in text:
            self._ended = True
        else:
            super().line(text)

    def result(self, verdict, wanted):
        metrics, counters = {}, []
        for phase, kind in (("menu", MENU), ("line", LINE)):
            stamps = [p[1:] for p in self.presses if p[0] == kind]
            if stamps:
                metrics.update(_phase(phase, stamps))
            rows = self._counters(phase, len(stamps)) if stamps else {}
            for level, counts in rows.items():
                counters += count_rows(phase, level, counts, len(stamps))
                exits = sum(n for name, n in counts.items() if name.startswith("exit."))
                metrics[f"{phase}.exits-to-L{level}"] = metric(exits / len(stamps), "exits")
        problem = self.errors[0] if self.errors else None
        if not problem and not self._ended:
            problem = f"{verdict.ended}: {verdict.detail}".rstrip(": ")
        if not problem and len(self.presses) != wanted:
            problem = f"{len(self.presses)} of {wanted} presses were answered"
        return Run(problem, metrics, counters + l0_rows(verdict), verdict.ticks, verdict.wall_s,
                   verdict.last_lines() if problem else [])

    def _counters(self, phase, _count):
        """{level: differences} between the phase's two markers."""
        first, last = PHASES[phase]
        reports = {(r["level"], r["marker"]): r["counters"] for r in self.reports}
        found = {}
        for level in sorted({level for level, _ in reports}):
            old, new = reports.get((level, first)), reports.get((level, last))
            if old is not None and new is not None:
                found[level] = {n: v - old.get(n, 0) for n, v in new.items() if v != old.get(n, 0)}
        return found


def _phase(phase, stamps):
    found = {}
    for at, name in enumerate(("arrived", "taken", "redrawn")):
        ticks = [s[at] for s in stamps]
        ordered = sorted(ticks)
        found[f"{phase}.{name}.median"] = metric(statistics.median(ticks), "ticks", samples=ticks)
        found[f"{phase}.{name}.p95"] = metric(ordered[(len(ordered) - 1) * 95 // 100], "ticks")
        found[f"{phase}.{name}.max"] = metric(ordered[-1], "ticks")
    return found
