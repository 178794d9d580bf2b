"""Results that must be refused, and what is made of good ones."""

import copy
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bench"))
sys.dont_write_bytecode = True

from suite import compare, export, result  # noqa: E402
from suite.short import baseline_form  # noqa: E402


def sample(ticks=1000, exits=32, history="on"):
    run = result.Run(None, {"nested.cpuid.ticks": result.metric(ticks, "ticks", samples=[ticks]),
                            "wall": result.metric(12.5, "s")},
                     result.count_rows("nested.cpuid", 1,
                                       {"exit.l3.cpuid": exits, "reflect.cpuid": exits,
                                        "exit.l2.vmresume": exits, "entry.plain": exits}, 32),
                     123456, 12.5)
    setup = {"levels": 1, "smp": 1, "cpu": "corei7_skylake_x", "options": {"L1": f"history={history}"},
             "memory_mib": 512, "ips": 10000000, "scenario": {}}
    return result.assemble("exit-cost", setup,
                           {"commit": "0" * 40, "changed": False, "strata_sha256": None},
                           {"kind": "bochs", "version": "Bochs 2.7"},
                           {"cpu": "x", "kernel": "6.1"}, [run])


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, content, name="r.json"):
        path = Path(self.folder.name) / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def compare(self, a, b, *words):
        return subprocess.run([TOP / "bench/compare", self.path(a, "a.json"),
                               self.path(b, "b.json"), *words], capture_output=True, text=True)

    def refused(self, a, b, pattern):
        done = self.compare(a, b)
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertRegex(done.stderr, pattern)
        self.assertEqual(done.stdout, "", "a table in spite of the error")
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)


class Broken(Files):
    def test_truncated(self):
        self.refused(sample(), json.dumps(sample())[:-40], "cut off")

    def test_empty(self):
        self.refused("", sample(), "not JSON")

    def test_other_json(self):
        self.refused({"name": 1}, sample(), "not a result")
        self.refused([1, 2], sample(), "not a result")

    def test_other_version(self):
        self.refused(sample(), dict(sample(), schema="strata-bench/2"), "strata-bench/2")

    def test_against_schema(self):
        bad = sample()
        bad["runs"][0]["metrics"]["nested.cpuid.ticks"]["value"] = "many"
        self.refused(sample(), bad, "metrics/nested.cpuid.ticks/value")

    def test_other_scenario(self):
        self.refused(sample(), dict(sample(), scenario="linux-boot"), "different scenarios")

    def test_other_setup(self):
        other = sample()
        other["setup"]["levels"] = 2
        self.refused(sample(), other, "levels is 1 .* 2")

    def test_missing_metric(self):
        other = sample()
        del other["runs"][0]["metrics"]["nested.cpuid.ticks"]
        self.refused(sample(), other, "lacks 1 metrics .*nested.cpuid.ticks")

    def test_no_runs(self):
        self.refused(sample(), dict(sample(), runs=[]), "no run")

    def test_incomplete(self):
        other = sample()
        other["complete"] = False
        other["runs"][0].update(complete=False, problem="stalled: no serial output")
        self.refused(sample(), other, "not complete: stalled")

    def test_not_deterministic(self):
        other = sample()
        other["runs"].append(copy.deepcopy(sample(ticks=1001)["runs"][0]))
        self.refused(sample(), other, "should be exact")

    def test_no_file(self):
        done = subprocess.run([TOP / "bench/compare", "/nowhere.json", "/nowhere.json"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)

    def test_no_revision(self):
        done = subprocess.run([TOP / "bench/compare", "no-such-revision", "HEAD"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("neither a result file nor a git revision", done.stderr)


class Compared(Files):
    def test_same(self):
        done = self.compare(sample(), sample())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("unchanged", done.stdout)

    def test_one_exit_more(self):
        done = self.compare(sample(), sample(exits=33))
        self.assertEqual(done.returncode, 1)
        self.assertIn("nested.cpuid: L3 cpuid, reflected", done.stdout)

    def test_threshold(self):
        self.assertEqual(self.compare(sample(), sample(1010), "--threshold", "2").returncode, 0)
        self.assertEqual(self.compare(sample(), sample(1030), "--threshold", "2").returncode, 1)

    def test_smaller_is_better(self):
        self.assertEqual(self.compare(sample(), sample(900)).returncode, 0)
        self.assertEqual(self.compare(sample(), sample(900), "--any-change").returncode, 1)

    def test_wall_clock_never_fails(self):
        slow = sample()
        slow["runs"][0]["metrics"]["wall"]["value"] = 1000
        done = self.compare(sample(), slow, "--any-change")
        self.assertEqual(done.returncode, 0)
        self.assertIn("wall clock", done.stdout)

    def test_sorted_by_what_moved_most(self):
        found = compare.rows(sample(), sample(ticks=1010, exits=64))
        percents = [abs(r.percent) for r in found if r.exact]
        self.assertEqual(percents, sorted(percents, reverse=True))

    def test_counter_appears(self):
        new = sample()
        new["runs"][0]["counters"] += result.count_rows("nested.cpuid", 1, {"ept02.fill": 5}, 32)
        done = self.compare(sample(), new)
        self.assertEqual(done.returncode, 1)
        self.assertIn("ept02.fill", done.stderr + done.stdout)

    def test_item_that_counted_nothing_before(self):
        """Its metrics are old, so its counters are no news to be left out: they are a change from 0."""
        old = sample()
        old["runs"][0]["counters"] = []
        done = self.compare(old, sample())
        self.assertEqual(done.returncode, 1)
        self.assertIn("nested.cpuid: L3 cpuid", done.stdout)

    def test_new_phase_is_noted(self):
        new = sample()
        new["runs"][0]["counters"] += result.count_rows("kernel", 1, {"exit.l2.cpuid": 5})
        done = self.compare(sample(), new, "--any-change")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("new phases, not compared: kernel", done.stdout)
        done = self.compare(new, sample())
        self.assertEqual(done.returncode, 2)
        self.assertIn("counts nothing in phases", done.stderr)

    def test_options_are_noted(self):
        done = self.compare(sample(), sample(history="off"))
        self.assertEqual(done.returncode, 0)
        self.assertIn("options differ", done.stdout)


class Forms(unittest.TestCase):
    def test_sample_fits_the_schema(self):
        result.check(sample())
        result.check(baseline_form(sample()))

    def test_count_rows(self):
        rows = result.count_rows("boot", 2, {"exit.l2.cpuid": 5, "exit.l3.cpuid": 7,
                                             "reflect.cpuid": 4, "ept02.fill": 1})
        exits = {(r["from"], r["handler"]): r["count"] for r in rows if "reason" in r}
        self.assertEqual(exits, {(3, "own"): 5, (4, "own"): 3, (4, "reflected"): 4})
        self.assertEqual([r["counter"] for r in rows if "counter" in r], ["ept02.fill"])

    def test_github(self):
        made = export.github(sample())
        self.assertTrue(all({"name", "unit", "value"} <= set(row) for row in made))
        self.assertEqual(len(made), len({row["name"] for row in made}))

    def test_markdown(self):
        self.assertIn("| nested.cpuid.ticks | 1,000 | ticks |", export.markdown(sample()))


if __name__ == "__main__":
    unittest.main()
