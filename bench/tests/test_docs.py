"""bench/README.md speaks of programs, options and files that are there."""

import re
import subprocess
import sys
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bench"))
sys.dont_write_bytecode = True

from suite import SCENARIOS  # noqa: E402

TEXT = (TOP / "bench/README.md").read_text()
BLOCK = re.compile(r"```\w*\n(.*?)```", re.S)
CODE = BLOCK.findall(TEXT) + re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", BLOCK.sub("", TEXT))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


class Readme(unittest.TestCase):
    def test_files_are_there(self):
        named = {w for code in CODE for w in re.findall(r"(?<![\w./])bench/[\w./-]*\w", code)}
        self.assertGreater(len(named), 10)
        self.assertEqual([w for w in sorted(named) if not (TOP / w).exists()], [])

    def test_options_are_known(self):
        checked = 0
        for line in (line for code in CODE for line in code.splitlines()):
            found = re.match(r"\s*(?:- )?(?:run: )?(bench/[a-z.-]+)(.*)", line)
            if not found or not OPTION.search(found[2]):
                continue
            program = TOP / found[1]
            known = (program.read_text() if program.read_bytes().startswith(b"#!/bin/sh") else
                     subprocess.run([program, "--help"], capture_output=True, text=True).stdout)
            for option in OPTION.findall(found[2].partition(" -- ")[0]):
                self.assertIn(option, known, line)
                checked += 1
        self.assertGreater(checked, 5)

    def test_scenarios_are_described(self):
        for scenario in SCENARIOS:
            self.assertIn(f"**{scenario}**", TEXT)


class PullRequest(unittest.TestCase):
    def test_usage(self):
        for words in ([], ["--what"], ["a", "b", "c"]):
            done = subprocess.run([TOP / "bench/pull-request", *words], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, words)
            self.assertIn("usage:", done.stderr)

    def test_no_such_revision(self):
        done = subprocess.run([TOP / "bench/pull-request", "no-such-revision"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("Could not be measured", done.stdout)
        self.assertIn("neither a result file nor a git revision", done.stderr)


if __name__ == "__main__":
    unittest.main()
