"""With the emulator (EMULATOR=1): two runs are the same to the last tick, and an injected regression is named.

About four minutes; Bochs runs one after the other.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
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
        bad = self.run_bench("bad", *words, "--set", "history=off")
        done = self.compare(good, bad)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertRegex(done.stderr, r"first: invept\.64\.\w+\.touch: L1 ept02")
        self.assertIn("| invept.64.return.touch.exits-to-L1 |", done.stdout)
        self.assertIn("history=off", done.stdout)

    def build_changed(self, name, old, new):
        """A Strata of this tree with one text in one file changed."""
        tree = self.folder / "tree"
        for folder in ("core", "shadow-vmcs", "ept-cache", "x2apic", "nested", "bench", "tests"):
            shutil.copytree(TOP / folder, tree / folder)
        shutil.copy(TOP / "Makefile", tree)
        path = tree / name
        text = path.read_text()
        self.assertEqual(text.count(old), 1, f"{name} does not have {old!r} once any more")
        path.write_text(text.replace(old, new))
        done = subprocess.run(["make", "-s", "-C", tree, "-j2", "build/strata.elf"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        return tree / "build/strata.elf"

    def test_one_exit_more_per_cpuid_is_named(self):
        """A Strata that executes CPUID twice where once is enough: above another one each is an exit."""
        once = "struct cpuid_regs r = hw_cpuid(leaf, subleaf);"
        worse = self.build_changed("core/guest/cpuid.c", once, f"hw_cpuid(leaf, subleaf);\n    {once}")
        words = ["exit-cost", "--levels", "2", "--items", "guest"]
        good, bad = self.run_bench("good", *words), self.run_bench("bad", *words, "--strata", worse)
        done = self.compare(good, bad)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("first: guest.cpuid", done.stderr)
        self.assertRegex(done.stdout, r"\| guest\.cpuid: L2 cpuid, handled by L1 \| \d+ \| \d+ \| \+32 \|")
        self.assertNotIn("guest.cpuid-answered: ", done.stdout)  # no counter of what does not ask the processor

    @unittest.skipUnless((TOP / "build/cache/i386/busybox").is_file(), "bench/setup.sh --arch i386 fetches it")
    def test_i386(self):
        words = ["linux-boot", "--arch", "i386", "--levels", "1", "--smp", "1"]
        made = json.loads(self.run_bench("i386", *words).read_text())
        self.assertIn("kernel-to-init", made["runs"][0]["metrics"])
        self.assertIn("686", made["setup"]["guest"]["kernel"])
        self.assertEqual({r["phase"] for r in made["runs"][0]["counters"]}, {"grub", "kernel", "user"})

    @unittest.skipUnless((TOP / ".git").exists(), "not a git clone")
    def test_pull_request(self):
        """Two revisions, built and measured; the same one has nothing to say."""
        done = subprocess.run([TOP / "bench/pull-request", "HEAD", "HEAD"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        self.assertIn("Nothing grew by more than 1 %", done.stdout)
        self.assertIn("are unchanged", done.stdout)

    def test_hang_is_reported(self):
        """A guest that says nothing for too long: ended, marked, its last lines shown, Bochs gone."""
        out = self.run_bench("hang", "exit-cost", "--items", "invept", "--limit", "6", status=1)
        kept = json.loads(out.read_text())
        self.assertFalse(kept["complete"])
        self.assertTrue(re.match("out of time|stalled", kept["runs"][0]["problem"]), kept["runs"][0]["problem"])
        self.assertTrue(kept["runs"][0]["last_lines"])
        self.assertEqual(self.left_running(), [])

    def test_crash_is_reported(self):
        """A Strata that panics in the middle: ended at once, and what was measured before is kept."""
        start = "void cpuid_emulate(struct cpu *cpu)\n{\n"
        broken = self.build_changed("core/guest/cpuid.c", start, f"""{start}    static unsigned count;
    if (cpu->regs[GPR_RAX] == 0 && ++count == 60)
        panic("injected");
""")
        began = time.monotonic()
        out = self.run_bench("crash", "exit-cost", "--items", "guest", "--strata", broken, status=1)
        self.assertLess(time.monotonic() - began, 60, "waited for a machine that has stopped")
        kept = json.loads(out.read_text())
        self.assertFalse(kept["complete"])
        self.assertRegex(kept["runs"][0]["problem"], "panic: .*injected")
        self.assertIn("guest.empty.ticks", kept["runs"][0]["metrics"])
        self.assertTrue(any("injected" in line for line in kept["runs"][0]["last_lines"]))
        self.assertEqual(self.left_running(), [])

    def left_running(self):
        """Command lines of processes that work in this test's folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(process / "cwd").startswith(str(self.folder)):
                    found.append((process / "cmdline").read_text())
            except OSError:
                continue
        return found


if __name__ == "__main__":
    unittest.main()
