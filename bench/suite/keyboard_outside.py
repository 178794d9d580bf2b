"""grub-keyboard-outside: the same as grub-keyboard, seen from outside a virtual machine, in wall-clock time.

A key is pressed through QEMU's monitor (send-key), and the screen is looked at until the highlighted menu line has
moved, or the letter has appeared on the command line. One look takes as long as "look.median" says: a latency is
known no better than that. For machines with KVM, where it says what a user feels; nothing of it is exact, and
nothing of it is ever a reason to fail. With QEMU's own emulation only the way is tested.
"""

import statistics
import time

from machine import MachineError, image, qemu, screen
from .keyboard import MENU_TEXT
from .result import Run, metric

NAME = "grub-keyboard-outside"
ENTRIES = [f"entry {n}" for n in range(1, 5)]
PROMPT = "grub>"
HOLD_MS = 20  # how long QEMU holds a key
ANSWER_S = 10
BETWEEN_S = 0.05  # GRUB waits for a key again


class NoAnswer(Exception):
    pass


def check(setup):
    if setup.kind == "bochs" or setup.inside:
        raise MachineError(f"{NAME} needs --machine kvm (or tcg, with --levels 0): Bochs has no monitor that "
                           "presses keys")


def run(setup, out_dir, progress, presses=100):
    if presses < 3:
        raise MachineError(f"{presses} presses: at least 3")
    out_dir = out_dir.resolve()
    out_dir.mkdir(parents=True, exist_ok=True)
    disks = setup.strata_disks(out_dir)
    disk, menu = out_dir / "keyboard.img", out_dir / "grub.cfg"
    menu.write_text(MENU_TEXT)
    image.grub_disk(disk, {"/boot/grub/grub.cfg": menu}, "normal", ("test", "true"))
    samples, problem, started = {"menu": [], "line": [], "look": []}, None, time.monotonic()
    with qemu.session(setup.machine(disks + [disk]), out_dir) as (_, monitor):
        monitor.execute("cont")
        outside = _Outside(monitor, out_dir / "screen.bin", samples["look"])
        try:
            _press_all(outside, presses, samples, progress, started + setup.limit_s)
        except NoAnswer as error:
            problem = str(error)
    return Run(problem, _metrics(samples), [], None, time.monotonic() - started,
               [line.rstrip() for line in outside.last.lines if line.strip()] if problem and outside.last else [])


def _press_all(outside, presses, samples, progress, deadline):
    """Two thirds in the menu, the rest on the command line, as grub-keyboard has it."""
    progress.phase("GRUB's menu")
    rows = outside.until(_menu_rows, deadline, "GRUB's menu")
    in_line = presses // 3
    progress.phase("keys in the menu")
    for n in range(presses - in_line):
        before = outside.look().highlighted(rows)
        key = ("down", "up")[n % 2]
        samples["menu"].append(outside.press(key, lambda s: s.highlighted(rows) not in (None, before)))
    progress.phase("keys on the command line")
    outside.press("c", lambda s: s.line_with(PROMPT) is not None)
    row = outside.last.line_with(PROMPT)
    typed = ""
    for n in range(in_line):
        if len(typed) == 60:  # the next ones would be on another line
            outside.press("esc", lambda s: s.line_with(PROMPT) is None)
            outside.press("c", lambda s: s.line_with(PROMPT) is not None)
            row, typed = outside.last.line_with(PROMPT), ""
        typed += "ab"[n % 2]
        samples["line"].append(outside.press(typed[-1], lambda s: f"{PROMPT} {typed}" in s.lines[row]))


def _menu_rows(seen):
    """The lines of the menu's entries, once all are there and one is highlighted."""
    rows = [seen.line_with(entry) for entry in ENTRIES]
    return rows if None not in rows and seen.highlighted(rows) is not None else None


class _Outside:
    """Presses keys and looks at the screen."""

    def __init__(self, monitor, scratch, looks):
        self._monitor, self._scratch, self._looks = monitor, scratch, looks
        self.last = None

    def look(self):
        self.last = screen.read(self._monitor, self._scratch)
        return self.last

    def until(self, seen, deadline, what):
        """SEEN's first true result."""
        while time.monotonic() < deadline:
            found = seen(self.look())
            if found:
                return found
        raise NoAnswer(f"{what} did not appear")

    def press(self, key, seen):
        """Milliseconds from asking for the key until SEEN says that the screen shows it."""
        time.sleep(BETWEEN_S)
        pressed = time.monotonic()
        self._monitor.execute("send-key", keys=[{"type": "qcode", "data": key}], **{"hold-time": HOLD_MS})
        while True:
            before = time.monotonic()
            current = self.look()
            now = time.monotonic()
            self._looks.append(1000 * (now - before))
            if seen(current):
                time.sleep(max(0, pressed + HOLD_MS / 1000 - now))  # it is let go
                return 1000 * (now - pressed)
            if now - pressed > ANSWER_S:
                raise NoAnswer(f"GRUB did not answer key {key!r} in {ANSWER_S} s")


def _metrics(samples):
    found = {}
    for name, values in samples.items():
        if not values:
            continue
        rounded = [round(v, 3) for v in values]
        ordered = sorted(rounded)
        kept = {} if name == "look" else {"samples": rounded}
        stem = name if name == "look" else f"{name}.redrawn"
        found[f"{stem}.median"] = metric(round(statistics.median(ordered), 3), "ms", **kept)
        if name != "look":
            found[f"{stem}.p95"] = metric(ordered[(len(ordered) - 1) * 95 // 100], "ms")
            found[f"{stem}.max"] = metric(ordered[-1], "ms")
    return found
