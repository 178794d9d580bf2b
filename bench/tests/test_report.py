"""The page: complete, self-contained, and in a real browser (headless Chromium, where it is installed)."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bench"))
sys.path.insert(0, str(TOP / "bench/tests"))
sys.dont_write_bytecode = True

from suite import result  # noqa: E402
from test_result import sample  # noqa: E402

PHONE = 390  # CSS pixels
PROBE = ("<script>document.title = document.documentElement.scrollWidth + ' ' + innerWidth + ' ' + "
         "[...document.querySelectorAll('svg')].map(s => Math.round(s.getBoundingClientRect().height));"
         "</script>")


def results():
    """One of each scenario, with what their pictures need."""
    cost = sample()
    cost["runs"][0]["metrics"].update({
        "nested.cpuid.added": result.metric(620, "ticks"),
        "invept.64.nothing.invept.ticks": result.metric(551, "ticks"),
        "invept.64.entry.invept.ticks": result.metric(2000, "ticks"),
        "invept.64.table.invept.ticks": result.metric(5700, "ticks"),
        "invept.64.many.invept.ticks": result.metric(90000, "ticks"),
        "nested.cpuid.exits-to-L1": result.metric(2, "exits"),
        "nested.cpuid.L1.instructions": result.metric(620, "count"),
        "nested.cpuid.L1.vmread": result.metric(10, "count")})
    boot = dict(sample(), scenario="linux-boot")
    boot["runs"][0]["metrics"].update({"L1-Strata:-started": result.metric(9, "ticks"),
                                       "to-kernel": result.metric(50, "ticks"), "to-init": result.metric(90, "ticks")})
    boot["runs"][0]["counters"] = result.count_rows("kernel", 1, {
        "exit.l2.cpuid": 50, "exit.l3.cpuid": 70, "reflect.cpuid": 60, "invept.hardware": 3})
    keys = dict(sample(), scenario="grub-keyboard")
    keys["runs"][0]["metrics"] = {"menu.redrawn.median": result.metric(5, "ticks", samples=[4, 5, 6])}
    failed = dict(sample(), scenario="invept-storm", complete=False)
    failed["runs"][0].update(complete=False, problem="stalled: <nothing> for 300 s")
    return [cost, boot, keys, failed]


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="strata-report-")
        folder = Path(cls.folder.name)
        files = []
        for number, one in enumerate(results()):
            files.append(folder / f"{number}.json")
            files[-1].write_text(json.dumps(one))
        cls.path = folder / "report.html"
        cls.done = subprocess.run([TOP / "bench/report", "--out", cls.path, *files],
                                  capture_output=True, text=True)
        cls.text = cls.path.read_text() if cls.path.is_file() else ""

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_made(self):
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        self.assertGreaterEqual(self.text.count("<svg"), 4)
        self.assertIn("nested.cpuid.ticks", self.text)

    def test_no_network(self):
        loaded = re.findall(r'(?:src|href)="(?!#)([^"]*)"|url\((?!#|"#)([^)]*)\)|@import', self.text)
        self.assertEqual([x for x in loaded if any(x)], [])
        self.assertNotIn("<script", self.text)

    def test_phases_and_exits_of_a_boot(self):
        for part in ("GRUB&#x27;s boot", "kernel: L2 to L1", "cpuid (reflected)"):
            self.assertIn(part, self.text.replace("GRUB's boot", "GRUB&#x27;s boot"))

    def test_estimates_are_called_so_and_say_their_sources(self):
        self.assertIn("Estimates, not measurements", self.text)
        self.assertIn("published figures", self.text)
        self.assertIn("https://git.kernel.org/linus/", self.text)
        low = 2 * 784 + 10 * 20 + 610 * 0.4
        self.assertIn(f"<td class=n>{low:,.0f}</td>", self.text)

    def test_cost_model_of_ones_own(self):
        bad = Path(self.folder.name) / "model.json"
        bad.write_text("{}")
        done = subprocess.run([TOP / "bench/report", "--cost-model", bad, self.path.with_name("0.json")],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("not a cost model", done.stderr)

    def test_headlines(self):
        self.assertIn("instructions of L1 in one round trip of nested.cpuid", self.text)
        self.assertIn("menu: key press until redrawn, median", self.text)

    def test_failed_run_is_marked_and_quoted(self):
        self.assertIn("Incomplete: stalled: &lt;nothing&gt; for 300 s", self.text)

    def test_broken_file(self):
        bad = Path(self.folder.name) / "bad.json"
        bad.write_text("{")
        done = subprocess.run([TOP / "bench/report", bad], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)

    @unittest.skipUnless(shutil.which("chromium"), "no chromium")
    def test_browser(self):
        probe = Path(self.folder.name) / "probe.html"
        # A frame as wide as a phone: a headless window is never that narrow by itself.
        inner = Path(self.folder.name) / "inner.html"
        inner.write_text(self.text.replace("</body>", PROBE.replace(
            "document.title =", "parent.document.title =") + "</body>"))
        probe.write_text(f"<!DOCTYPE html><title>?</title><iframe width={PHONE} height=900 src=inner.html></iframe>")
        said = subprocess.run(["chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
                               "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom",
                               f"file://{probe}"], capture_output=True, text=True, timeout=120).stdout
        title = re.search(r"<title>(\d+) (\d+) ([\d,]+)</title>", said)
        self.assertTrue(title, said[:300])
        width, window, heights = int(title[1]), int(title[2]), [int(h) for h in title[3].split(",")]
        self.assertLessEqual(width, window, "the page is wider than the screen")
        self.assertTrue(all(40 < h < 1500 for h in heights), heights)


if __name__ == "__main__":
    unittest.main()
