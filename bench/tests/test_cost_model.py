"""The cost model: what is refused, what follows from counts, and what a calibration makes of its samples."""

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

from suite import cost_model, result  # noqa: E402

EVEN = {"schema": cost_model.SCHEMA, "name": "even", "unit": "cycles", "constants": {
    name: {"low": at, "high": 2 * at, "basis": "assumed", "what": name, "source": "a test", "url": ""}
    for at, name in enumerate(cost_model.CONSTANTS, 1)}}


class Model(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "model.json"

    def load(self, content):
        self.path.write_text(content if isinstance(content, str) else json.dumps(content))
        return cost_model.load(self.path)

    def broken(self, change):
        made = copy.deepcopy(EVEN)
        change(made["constants"])
        with self.assertRaises(result.ResultError) as caught:
            self.load(made)
        return str(caught.exception)

    def test_published_figures_say_where_they_are_from(self):
        for name, one in cost_model.load(cost_model.PUBLISHED).constants.items():
            if one["basis"] != "assumed":
                self.assertRegex(one["url"], r"^https://", name)
            else:
                self.assertTrue(one["note"] or one["source"], name)

    def test_broken_files(self):
        for text in ("", "{", "[]", json.dumps(dict(EVEN, schema="strata-cost-model/2"))):
            with self.assertRaises(result.ResultError):
                self.load(text)
        self.assertIn("no constant vmread", self.broken(lambda c: c.pop("vmread")))
        self.assertIn("invept is not a range", self.broken(lambda c: c["invept"].update(low=9999)))
        self.assertIn("vmwrite does not say", self.broken(lambda c: c["vmwrite"].pop("source")))
        self.assertIn("unknown constant magic", self.broken(lambda c: c.update(magic=c["invept"])))

    def test_cycles(self):
        self.assertEqual(self.load(EVEN).cycles({"round_trip": 10, "vmread": 2}), (16, 32))


class Estimates(unittest.TestCase):
    def result(self, metrics, counters=()):
        run = result.Run(None, {n: result.metric(v, "count") for n, v in metrics.items()}, list(counters), 1, 1.0)
        return {"runs": [run.described()]}

    def test_traced_item(self):
        item = "guest.cpuid"
        made = self.result({f"{item}.exits-to-L1": 2, f"{item}.L1.instructions": 100, f"{item}.L1.vmread": 10,
                            f"{item}.L1.vmresume": 1, f"{item}.L1.vmlaunch": 1, f"{item}.L1.vmclear": 2,
                            f"{item}.L2.instructions": 50, f"{item}.L2.vmread": 5, f"{item}.L2.vmresume": 1})
        model = cost_model.Model("even", "cycles", EVEN["constants"])
        (name, counts, low, high), = cost_model.traced(made, model)
        self.assertEqual(name, item)
        # L2's VMRESUME is one of the two round trips; the rest of 100 and 50 are plain instructions.
        self.assertEqual(counts, {"round_trip": 2, "vmread": 15, "vmclear": 2, "entry_checks": 1,
                                  "instruction": 100 - 14 + 50 - 6})
        self.assertEqual((low, high), model.cycles(counts))

    def test_transitions_of_l1_only(self):
        rows = (result.count_rows("kernel", 1, {"exit.l2.cpuid": 5, "exit.l3.cpuid": 4, "reflect.cpuid": 3,
                                                "invept.hardware": 2, "entry.plain": 100})
                + result.count_rows("kernel", 2, {"exit.l2.cpuid": 1000}))
        model = cost_model.Model("even", "cycles", EVEN["constants"])
        self.assertEqual(cost_model.transitions(self.result({}, rows), model),
                         [("kernel", {"round_trip": 9, "invept": 2}, 9 + 2 * 7, 2 * (9 + 2 * 7))])


class Calibration(unittest.TestCase):
    ITEMS = {"empty": 10, "vmread": 10 + 16 * 30, "vmwrite": 10 + 16 * 40, "vmptrld-two": 10 + 32 * 100,
             "vmclear-vmptrld": 10 + 16 * 350, "invept": 10 + 16 * 200, "invvpid": 10 + 16 * 210,
             "round-trip": 10 + 16 * 1130}

    def serial(self, hypervisor=0, skip=()):
        lines = [f"bench-start: exit-cost cpus=1 vmx=1 hypervisor={hypervisor} model=Test CPU @ 3 GHz\r"]
        lines += ["bench-json: " + json.dumps({"item": f"calibrate.{n}", "unit": "ticks", "samples": [v] * 32,
                                               "batch": 16}, separators=(",", ":")) + "\r"
                  for n, v in self.ITEMS.items() if n not in skip]
        return "\n".join([*lines, "bench-end: exit-cost"])

    def test_constants_follow(self):
        made = cost_model.measured(self.serial())["constants"]
        low = {name: one["low"] for name, one in made.items()}
        self.assertEqual({n: low[n] for n in ("vmread", "vmwrite", "vmptrld", "vmclear", "invept", "invvpid")},
                         {"vmread": 30, "vmwrite": 40, "vmptrld": 100, "vmclear": 250, "invept": 200, "invvpid": 210})
        self.assertEqual(low["round_trip"], 1130 - 3 * 30 - 40)
        self.assertEqual(made["vmread"]["source"], "measured on Test CPU @ 3 GHz")
        self.assertEqual(made["instruction"]["basis"], "assumed")

    def test_what_it_writes_can_be_read(self):
        with tempfile.TemporaryDirectory() as folder:
            serial, out = Path(folder) / "serial.log", Path(folder) / "model.json"
            serial.write_text(self.serial())
            done = subprocess.run([TOP / "bench/calibrate", serial, "--out", out], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(cost_model.load(out).constants["invept"]["high"], 200)

    def test_refused(self):
        for text, why in (("nothing", "no line"), (self.serial(hypervisor=1), "under a hypervisor"),
                          (self.serial(skip=("invept",)), "not measured: invept")):
            with self.assertRaisesRegex(result.ResultError, why):
                cost_model.measured(text)
        self.assertIn("under a hypervisor", cost_model.measured(self.serial(hypervisor=1), True)["name"])


if __name__ == "__main__":
    unittest.main()
