"""With the emulator (EMULATOR=1): two runs are the same to the last tick, and an injected regression is named.

About two minutes; Bochs runs one after the other.
"""

import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SCENARIOS = {
    "exit-cost": ["--items", "guest,nested,vmx,invept", "--invept", "64"],
    "grub-keyboard": ["--levels", "1", "--presses", "12"],
    "linux-boot": ["--levels", "1", "--smp", "2"],
}


@unittest.skipUnless(os.environ.get("BENCH_EMULATOR"), "EMULATOR=1 runs it")
class Emulator(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="strata-bench-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_bench(self, name, *words, status=0):
        out = self.folder / f"{name}.json"
        done = subprocess.run([TOP / "bench/run", *words, "--work", self.folder / "work", "--out", out],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, status, done.stderr[-2000:])
        return out

    def compare(self, a, b, *words):
        return subprocess.run([TOP / "bench/compare", a, b, *words], capture_output=True, text=True)

    def test_two_runs_are_the_same(self):
        for scenario, words in SCENARIOS.items():
            with self.subTest(scenario):
                runs = json.loads(self.run_bench("twice", scenario, *words, "--runs", "2").read_text())["runs"]
                for run in runs:
                    run.pop("wall_s")
                    run["metrics"] = {n: m for n, m in run["metrics"].items() if m["exact"]}
                self.assertEqual(runs[0], runs[1])

    def test_calibration(self):
        """Where each instruction is one tick, so is each constant; a round trip is the guest hypervisor's own 16."""
        out = self.folder / "model.json"
        done = subprocess.run([TOP / "bench/calibrate", "--bochs", "--out", out], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        made = json.loads(out.read_text())["constants"]
        for name in ("vmread", "vmwrite", "vmptrld", "vmclear", "invept", "invvpid"):
            self.assertAlmostEqual(made[name]["low"], 1, delta=0.2, msg=name)
        self.assertAlmostEqual(made["round_trip"]["low"], 16, delta=1)

    def test_history_off_is_named(self):
        words = ["exit-cost", "--items", "invept", "--invept", "64"]
        good = self.run_bench("good", *words)
        bad = self.run_bench("bad", *words, "--set", "history=off,coalesce=off")
        done = self.compare(good, bad)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"invept\.64\.")

    def test_one_exit_more_per_cpuid_is_named(self):
        """A Strata below that is built to do one thing more per CPUID: here, one level more does."""
        words = ["exit-cost", "--items", "guest"]
        good = json.loads(self.run_bench("good", *words).read_text())
        worse = json.loads(json.dumps(good))
        for row in worse["runs"][0]["counters"]:
            if row["phase"] == "guest.cpuid" and row.get("reason") == "cpuid":
                row["count"] += row["per"]
        bad = self.folder / "worse.json"
        bad.write_text(json.dumps(worse))
        done = self.compare(self.folder / "good.json", bad)
        self.assertEqual(done.returncode, 1)
        self.assertIn("guest.cpuid: L2 cpuid", done.stderr)

    def test_hang_is_reported(self):
        """A guest that says nothing for too long: ended, marked, its last lines shown, Bochs gone."""
        out = self.run_bench("hang", "exit-cost", "--items", "invept", "--limit", "6", status=1)
        kept = json.loads(out.read_text())
        self.assertFalse(kept["complete"])
        self.assertTrue(re.match("out of time|stalled", kept["runs"][0]["problem"]), kept["runs"][0]["problem"])
        self.assertTrue(kept["runs"][0]["last_lines"])


if __name__ == "__main__":
    unittest.main()
