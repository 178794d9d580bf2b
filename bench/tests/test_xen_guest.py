"""What is read of a run with Xen as the guest hypervisor, and that each of its verdicts can fail; without an emulator."""

import sys
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bench"))
sys.path.insert(0, str(TOP / "bench/tests"))
sys.dont_write_bytecode = True

from test_kvm_guest import report  # noqa: E402
from xen import verdict, watch  # noqa: E402

XEN = """(XEN) Brought up 2 CPUs
strata-guest: stage=init cpus=2 possible=2 tsc=1
strata-dmesg: <3>[    1.0] RETBleed: WARNING
strata-guest: stage=xl tsc=2
strata-l3: stage=init l3cpus=2 tsc=3
l3| a word of the nested guest's
strata-l3: stage=shutdown tsc=4
strata-guest: stage=xl-ended xl=0 boots=1 tsc=5
strata-dmesg: <4>[    2.0] strata: KVM begins
strata-guest: stage=shutdown tsc=6
(XEN) Entering ACPI S5 state.
"""
AROUND = report(1, reflect__io=5) + report(2, reflect__io=15, reflect__cpuid=100)


def seen(text, levels=1):
    made = watch.XenWatch(levels)
    made.feed(text.encode())
    return made


class Xen(unittest.TestCase):
    def problem(self, text, levels=1):
        return verdict.problem(seen(text, levels), 2, "2")

    def test_good(self):
        self.assertIsNone(self.problem(AROUND + XEN))
        self.assertIsNone(self.problem(XEN, levels=0))

    def test_each_word_counts(self):
        for there, instead, why in (("cpus=2 possible", "cpus=1 possible", "1 of 2 CPUs online in L2"),
                                    ("l3cpus=2", "l3cpus=1", "1 of 2 CPUs online in the nested"),
                                    ("xl=0", "xl=3", "did not shut down (xl's status 3)"),
                                    ("xl=0", "xl=none", "did not shut down"),
                                    ("boots=1", "boots=2", "1 times of 2"),
                                    ("stage=xl-ended", "stage=x", "xl did not end"),
                                    ("stage=shutdown tsc=6", "", "switched off"),
                                    ("stage=shutdown tsc=4", "", "did not shut down"),
                                    ("strata: KVM begins", "strata: KVM begins\nstrata-dmesg: <4>[ 2.0] xen: x", "kernel warns"),
                                    ("l3| a word", "(XEN) d1v0 VM entry failed", "Xen says while the nested guest runs: d1v0 VM")):
            self.assertIn(why, self.problem(AROUND + XEN.replace(there, instead)) or "", why)

    def test_xl_says_why(self):
        text = AROUND + XEN.replace("xl=0", "xl=none").replace("a word", "libxl: error: x.c:1:make: no")
        self.assertIn("did not shut down (xl's status none); xl said: x.c:1:make: no", self.problem(text))

    def test_panic(self):
        self.assertEqual(seen(XEN + "(XEN) Panic on CPU 0:\n").errors, ["Xen: Panic on CPU 0:"])

    def test_no_exit_of_a_nested_guest(self):
        self.assertIn("passed no exit", self.problem(report(1) + report(2) + XEN))
        self.assertIn("counters from before", self.problem(XEN))

    def test_lost_memory(self):
        self.assertIn("L1 lost 1 pages", self.problem(AROUND + report(2, 99, reflect__io=15) + XEN))

    def test_reflected(self):
        self.assertEqual(seen(AROUND + XEN).summary()["reflected"], {"io": 10, "cpuid": 100})
        self.assertIsNone(seen(XEN, levels=0).summary()["reflected"])

    def test_strata_speaks_within_a_line_of_xen(self):
        made = seen("(XEN) VMX: Supported advastrata[L1] 1150366295: all CPUs started\nnced features:\n")
        self.assertEqual(([s.name for s in made.stages], made.xen), (["L1 Strata: all CPUs started"], []))


if __name__ == "__main__":
    unittest.main()
