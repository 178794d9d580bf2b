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
        "invept.64.many.invept.ticks": result.metric(90000, "ticks")})
    boot = dict(sample(), scenario="linux-boot")
    boot["runs"][0]["metrics"].update({"L1-Strata:-started": result.metric(9, "ticks"),
                                       "to-init": result.metric(90, "ticks")})
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
