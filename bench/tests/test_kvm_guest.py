"""What is read of a run with KVM as the guest hypervisor, and that each of its verdicts can fail; without an emulator."""

import json
import lzma
import sys
import tempfile
import unittest
from argparse import Namespace
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bench"))
sys.dont_write_bytecode = True

from kvm import below, disk, exits, rows, verdict, watch  # noqa: E402
from machine import MachineError  # noqa: E402
from machine.process import Verdict  # noqa: E402
from suite import exit_cost, setup  # noqa: E402

LINUX = """strata-guest: stage=init cpus=2 possible=2 tsc=1
strata-guest: stage=qemu tsc=2
strata-l3: stage=init l3cpus=2 tsc=3
strata-l3: stage=shutdown tsc=4
strata-guest: stage=qemu-ended qemu=0 boots=1 tsc=5
strata-dmesg: <3>[    1.0] RETBleed: WARNING
strata-dmesg: <4>[    2.0] strata: KVM begins
strata-guest: stage=shutdown tsc=6
"""


def report(marker, free=100, kept=10, **counters):
    named = {name.replace("__", "."): count for name, count in counters.items()}
    return "strata-json: " + json.dumps({"level": 1, "marker": marker, "tsc": 1, "cpus": 2, "pages": {"free": free, "kept": kept},
                                         "counters": named}) + "\n"


def seen(text, levels=1):
    made = watch.KvmWatch(levels)
    made.feed(text.encode())
    return made


AROUND = report(1) + report(2)


class Emulators(unittest.TestCase):
    def test_posted_interrupts(self):
        self.assertEqual(disk.words_for("Bochs 2.7", "a=b"), ("a=b", None))
        words, note = disk.words_for("Bochs 3.0", "a=b")
        self.assertEqual(words, "a=b kvm_intel.enable_apicv=0")
        self.assertIn("Bochs 3.0", note)
        self.assertEqual(disk.words_for("Bochs 3.1", "kvm_intel.enable_apicv=1"), ("kvm_intel.enable_apicv=1", None))

    def test_modules(self):
        with tempfile.TemporaryDirectory() as folder:
            inside = Path(folder) / "usr/lib/modules/6.12"
            inside.mkdir(parents=True)
            (inside / "a.ko.xz").write_bytes(lzma.compress(b"\0depends=b-c\0rest"))
            (inside / "b-c.ko").write_bytes(b"\0depends=\0rest")
            self.assertEqual([p.name for p in disk.module_order(["a"], Path(folder))], ["b-c.ko", "a.ko.xz"])
            (inside / "d.ko.zst").write_bytes(b"")
            with self.assertRaisesRegex(MachineError, "d.ko.zst"):
                disk.module_order(["d"], Path(folder))


class Linux(unittest.TestCase):
    def problem(self, text):
        return verdict.problem(seen(AROUND + text), "linux", 2, "2")

    def test_good(self):
        self.assertIsNone(self.problem(LINUX))

    def test_each_word_counts(self):
        for there, instead, why in (("cpus=2 possible", "cpus=1 possible", "1 of 2 CPUs online in L2"),
                                    ("l3cpus=2", "l3cpus=1", "1 of 2 CPUs online in the nested"),
                                    ("qemu=0", "qemu=1", "did not shut down"),
                                    ("boots=1", "boots=2", "1 times of 2"),
                                    ("stage=qemu-ended", "stage=x", "QEMU did not end"),
                                    ("stage=shutdown tsc=6", "", "switched off"),
                                    ("stage=shutdown tsc=4", "", "did not shut down"),
                                    ("<3>[    1.0] RETBleed: WARNING", "<4>[ 1.0] strata: KVM begins\n"
                                     "strata-dmesg: <4>[ 2.0] kvm_intel: VMRESUME failed", "VMRESUME failed")):
            self.assertIn(why, self.problem(LINUX.replace(there, instead)) or "", why)

    def test_nested_guest_that_runs_guests(self):
        inner = "".join(f"l3| {line}\n" for line in LINUX.splitlines())
        outer = "".join(f"{line}\n" for line in LINUX.splitlines() if "strata-l3" not in line)
        self.assertIsNone(self.problem(outer + inner))
        self.assertIn("nested guest: the nested guest did not shut", self.problem(outer + inner.replace("qemu=0", "qemu=1")))
        self.assertIn("nested guest: QEMU did not end", self.problem(outer + inner.partition("l3| strata-l3")[0]))
        self.assertIn("nested guest's kernel warns", self.problem(outer + inner + "l3| strata-dmesg: <4>[ 2.0] kvm_intel: x\n"))

    def test_kvm_gives_up(self):
        made = seen("l3| KVM: entry failed, hardware error 0x7\n")
        self.assertEqual(made.errors, ["KVM: entry failed, hardware error 0x7"])

    def test_qemu_says_why(self):
        self.assertIn("QEMU said: qemu-system-x86_64: no ROM", self.problem(
            LINUX.replace("l3cpus=2", "l3cpus=1") + "l3| qemu-system-x86_64: no ROM\n"))

    def test_cpuid_on_kvm_may_cost_more(self):
        runs = "".join(f"strata-l3: cpuids={n} median=90000 least=1 mean=1 tsc=3\n" for n in (1000, 2000))
        reports = "".join(report(10 + i) for i in range(4))
        made = seen(AROUND + reports + runs + LINUX)
        made.machine = "kvm"
        self.assertIsNone(verdict._cpuid(made))
        made.machine = "bochs"
        self.assertIn("took 90000 ticks", verdict._cpuid(made))

    def test_lost_memory(self):
        self.assertIsNone(self.problem(report(1) + report(2, 90, 20) + LINUX))
        self.assertIn("L1 lost 1 pages", self.problem(report(1) + report(2, 89, 20) + LINUX))


class Counted(unittest.TestCase):
    STRATA = report(1, reflect__io=5) + report(2, reflect__io=15, reflect__cpuid=100)

    def problem(self, lines, scenario="linux"):
        return verdict.problem(seen(self.STRATA + lines + LINUX), scenario, 2, "2")

    def test_histogram_is_exact(self):
        self.assertIsNone(self.problem("strata-count: counter=hist reason=30 count=10\nstrata-count: counter=hist reason=10 count=100\n"))
        self.assertIn("counted 9 exits io, Strata passed on 10",
                      self.problem("strata-count: counter=hist reason=30 count=9\nstrata-count: counter=hist reason=10 count=100\n"))
        self.assertIn("counted 0 exits cpuid", self.problem("strata-count: counter=hist reason=30 count=10\n"))

    def test_nothing_counted(self):
        hist = "strata-count: counter=hist reason=30 count=10\nstrata-count: counter=hist reason=10 count=100\n"
        self.assertIsNone(self.problem(hist, "hist"))
        self.assertIn("no exits (hist)", self.problem("", "hist"))
        self.assertIn("no exits (perf)", self.problem(hist, "perf"))
        self.assertIn("counters from before", verdict.problem(seen(LINUX), "linux", 2, "2"))

    def test_perf_lacks_the_last_exit_of_each_cpu(self):
        perf = "strata-count: counter=perf reason=IO_INSTRUCTION count={}\nstrata-count: counter=perf reason=CPUID count={}\n"
        self.assertIsNone(self.problem(perf.format(9, 99)))
        self.assertIn("3 exits less", self.problem(perf.format(8, 99)))
        self.assertIn("perf counted 11 exits io", self.problem(perf.format(11, 100)))


class Cpuid(unittest.TestCase):
    def text(self, median=1800, entries=1010, more=1000, invept=5):
        runs = AROUND
        for i, cpuids in enumerate((1000, 2000)):
            begin = dict(exit__l3__cpuid=7, exit__l2__vmresume=7)
            end = dict(exit__l3__cpuid=7 + 300 + i * more, exit__l3__external_interrupt=10 * i,
                       exit__l2__vmresume=7 + 300 + i * entries, exit__l2__cpuid=50 * i, exit__l2__invept=i * invept)
            runs += report(10 + 2 * i, **begin) + report(11 + 2 * i, **end)
            runs += f"strata-l3: stage=cpuid cpuids={cpuids} mean=2000 median={median} least=1700 tsc=1\n"
        return runs + "\n".join(line for line in LINUX.splitlines() if "strata-l3" not in line) + "\n"

    def problem(self, levels=1, **changed):
        return verdict.problem(seen(self.text(**changed), levels), "cpuid", 2, "1")

    def test_two_exits_each(self):
        self.assertEqual(list(seen(self.text()).exits_per_cpuid()), [(1.0, 1.0, 0.005)])
        self.assertIsNone(self.problem())

    def test_more_exits(self):
        self.assertIn("1 + 2 exits", self.problem(entries=2010))
        self.assertIn("0.5 + 1.5 exits", self.problem(more=500, entries=1510))
        self.assertIn("1 others", self.problem(invept=1000))

    def test_no_counters(self):
        runs = "".join(line for line in self.text().splitlines(True) if '"marker": 13' not in line)
        self.assertIn("around the runs", verdict.problem(seen(runs), "cpuid", 2, "1"))

    def test_slow(self):
        self.assertIn("took 2001 ticks", self.problem(median=2001))
        self.assertIsNone(self.problem(median=2001, levels=0))


class Names(unittest.TestCase):
    def test_reasons(self):
        self.assertEqual([exits.name_of(word) for word in ("10", "CPUID", "MSR_WRITE", "EPT_VIOLATION")],
                         ["cpuid", "cpuid", "wrmsr", "ept_violation"])
        self.assertTrue(set(exits.KERNEL_NAMES.values()) <= set(exits.reason_names().values()))


class Warnings(unittest.TestCase):
    """L2's kernel may say what it says on the bare machine, and what a row asks for; nothing else."""

    def new(self, said, asked_for=(), bare_cpus=2):
        with tempfile.TemporaryDirectory() as folder:
            args = Namespace(out=Path(folder), guest="kvm", asked_for=asked_for)
            for name, cpus, dmesg in ((rows.LINUX_BARE, bare_cpus, ["<4>[    1.5] known of 0x1f"]), ("row", 2, [said])):
                (args.out / name).mkdir()
                (args.out / name / "summary.json").write_text(json.dumps({"cpus": cpus, "kvm": {"dmesg": dmesg}}))
            return rows.new_warnings(args, args.out / "row")

    def test_known(self):
        self.assertEqual(self.new("<4>[   22.7] known of 0x2e"), [])

    def test_new(self):
        self.assertEqual(self.new("<3>[   22.7] worse"), ["<3>[   22.7] worse"])

    def test_asked_for(self):
        self.assertEqual(self.new("<4>[    3.0] mitigation disabled, leak possible", ("mitigation disabled",)), [])

    def test_fewer_cpus_say_nothing(self):
        self.assertEqual(self.new("<3>[   22.7] worse", bare_cpus=1), [])



BELOW = """strata-below: stage=qemu tsc=1000
strata[L1] 12: started
strata-below: stage=qemu-ended status=0 tsc=5000
strata-below: reason=10 count=7
strata-below: dmesg=<4>[ 2.0] strata: KVM begins
"""


class Below(unittest.TestCase):
    """KVM as the machine below: what L0 says becomes the verdict on QEMU's machine."""

    def judged(self, text, ended="power-off"):
        passed = []
        heard = below._Heard(lambda data: passed.append(data))
        stop = any([heard.feed(text[i:i + 7].encode()) for i in range(0, len(text), 7)])
        self.assertTrue(stop or b"".join(passed).decode() == text)
        return heard.verdict(Verdict(ended, "", 99, 1.0, Path("serial"), Path("log"))), stop

    def test_good(self):
        verdict, stop = self.judged(BELOW)
        self.assertEqual((verdict.ended, verdict.ticks, verdict.l0, stop), ("power-off", 4000, {"vmexit.cpuid": 7}, False))

    def test_each_end_that_is_none(self):
        for there, instead, why in (("status=0", "status=1", "QEMU's status 1"),
                                    ("stage=qemu tsc=1000", "stage=failed problem=no_debugfs tsc=1", "no_debugfs"),
                                    ("strata[L1] 12: started", "KVM: entry failed, hardware error 0x7", "entry failed"),
                                    (BELOW, "nothing\n", "before it started QEMU")):
            verdict, _ = self.judged(BELOW.replace(there, instead))
            self.assertEqual(verdict.ended, "qemu failed")
            self.assertIn(why, verdict.detail)

    def test_marks(self):
        verdict, _ = self.judged(BELOW + "bench-mark: 10\nstrata-below: exits=100 irq=7 io=50\nl3| bench-mark: 11\n"
                                 "strata-below: exits=200 irq=17 io=60\nbench-mark: 12\n")
        self.assertEqual(verdict.l0_marks, [["10", 93], ["l3| 11", 183], ["12", None]])

    def test_marks_of_exit_cost(self):
        seen = exit_cost._Watch(setup.Setup(levels=0), Silent())
        for per, exits_, irq in ((0, 100, 1), (0, 130, 2), (32, 1900, 15)):
            seen.feed(f"bench-mark: nested.cpuid {per}\nstrata-below: exits={exits_} irq={irq} io=10\n".encode())
        self.assertEqual(seen.metrics["nested.cpuid.exits-to-L0"]["value"], 54.0)  # (1757 - 29) / 32


class Silent:
    def tick(self):
        pass

    def phase(self, _):
        pass


if __name__ == "__main__":
    unittest.main()
