"""One line that says what is running and how long it will take, by what it took the last time."""

import json
import sys
import time

from .setup import TOP

TIMES = TOP / "build/bench/times.json"


class Progress:
    """Rewritten on a terminal; else a line for each phase. KEY names what is being run."""

    def __init__(self, key, out=sys.stderr):
        self._key, self._out, self._tty = key, out, out.isatty()
        self._started = time.monotonic()
        self._expected = _times().get(key)
        self._phase, self._shown = "starting", None
        if self._expected and not self._tty:
            print(f"expected: {self._expected:.0f} s", file=out, flush=True)

    def phase(self, text):
        if text == self._phase:
            return
        self._phase = text
        if not self._tty:
            print(f"{self._seconds():7.1f} s  {text}", file=self._out, flush=True)

    def stage(self, stage):  # what watch.Watch calls
        self.phase(stage.name)

    def tick(self):
        seconds = int(self._seconds())
        if self._tty and (seconds, self._phase) != self._shown:
            self._shown = seconds, self._phase
            left = f", about {max(0, self._expected - seconds):.0f} s left" if self._expected else ""
            print(f"\r\033[K{seconds:4d} s{left}  {self._phase}", end="", file=self._out,
                  flush=True)

    def _seconds(self):
        return time.monotonic() - self._started

    def close(self, complete):
        if self._tty:
            print("\r\033[K", end="", file=self._out, flush=True)
        if complete:
            times = _times()
            times[self._key] = round(self._seconds(), 1)
            TIMES.parent.mkdir(parents=True, exist_ok=True)
            TIMES.write_text(json.dumps(times, indent=1, sort_keys=True) + "\n")


def _times():
    try:
        return json.loads(TIMES.read_text())
    except (OSError, ValueError):
        return {}
