"""The machine with KVM, without one: what is asked of the host, QEMU's command line, its monitor, and perf's output.

With EMULATOR=1 also QEMU itself, with its own emulation (no VMX): a boot, and keys pressed from outside.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bench"))
sys.dont_write_bytecode = True

from machine import MachineError, perf, qemu, qmp, screen  # noqa: E402
from suite import compare, keyboard_outside, result, setup  # noqa: E402

PERF_KVM = """

Analyze events for all VMs, all VCPUs:

             VM-EXIT    Samples  Samples%     Time%    Min Time    Max Time         Avg time

            VMRESUME       1604    41.36%     4.01%      1.02us     55.38us      2.38us ( +-   1.93% )
               CPUID       1137    29.32%     1.12%      0.57us     17.01us      0.94us ( +-   1.22% )
  EXTERNAL_INTERRUPT        812    20.94%     2.86%      0.49us    124.45us      3.35us ( +-   8.90% )
                 HLT        325     8.38%    92.01%      0.71us   4095.57us    269.42us ( +-   4.32% )

Total Samples:3878, Total events handled time:95163.91us.

"""
PERF_STAT = """# started on Fri Nov 20 12:00:00 2026

3890,,kvm:kvm_entry,1500000000,100.00,,
3878,,kvm:kvm_exit,1500000000,100.00,,
1604,,kvm:kvm_nested_vmexit,1500000000,100.00,,
0,,kvm:kvm_skinit,1500000000,100.00,,
<not counted>,,kvm:kvm_pio,0,100.00,,
"""


class Host(unittest.TestCase):
    """Each thing that can be missing, on a file system of our own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.write("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vmx sse\n")
        self.write("dev/kvm", "")
        self.write("sys/module/kvm_intel/parameters/nested", "Y\n")
        self.write("proc/sys/kernel/perf_event_paranoid", "-1\n")
        (self.root / perf.TRACEPOINTS[0]).mkdir(parents=True)
        self.programs = {"qemu-system-x86_64", "perf"}

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def missing(self, **more):
        return qemu.missing("kvm", root=self.root, which=lambda name: name in self.programs or None, **more)

    def test_all_there(self):
        self.assertIsNone(self.missing())

    def test_no_qemu(self):
        self.programs.remove("qemu-system-x86_64")
        self.assertIn("qemu-system-x86", self.missing())

    def test_no_device(self):
        (self.root / "dev/kvm").unlink()
        self.assertIn("modprobe kvm_intel nested=1", self.missing())
        self.write("proc/cpuinfo", "flags : fpu svm\n")
        self.assertIn("no VMX", self.missing())

    def test_device_may_not_be_opened(self):
        self.assertIn("adduser", self.missing(usable=lambda _path: False))

    def test_another_vendor(self):
        shutil.rmtree(self.root / "sys/module/kvm_intel")
        self.assertIn("Intel", self.missing())

    def test_no_nesting(self):
        for value in ("N\n", "0\n"):
            self.write("sys/module/kvm_intel/parameters/nested", value)
            self.assertIn("nested=1", self.missing())
        self.write("sys/module/kvm_intel/parameters/nested", "1\n")
        self.assertIsNone(self.missing())

    def test_no_perf(self):
        self.programs.remove("perf")
        self.assertIn("linux-perf", self.missing())
        self.assertIsNone(self.missing(with_perf=False))

    def test_perf_needs_rights(self):
        self.write("proc/sys/kernel/perf_event_paranoid", "3\n")
        which = lambda _name: "there"  # noqa: E731
        self.assertIn("perf_event_paranoid=-1", perf.missing(self.root, which, user=1000))
        self.assertIsNone(perf.missing(self.root, which, user=0))

    def test_no_tracepoints(self):
        shutil.rmtree(self.root / "sys/kernel")
        self.assertIn("tracefs", self.missing())

    def test_one_line_each(self):
        (self.root / "dev/kvm").unlink()
        self.assertNotIn("\n", self.missing())

    def test_bench_run_says_it_and_ends_with_2(self):
        done = subprocess.run([TOP / "bench/run", "exit-cost", "--machine", "tcg", "--levels", "1", "--out", "/dev/null"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn("--machine tcg:", done.stderr)


class CommandLine(unittest.TestCase):
    def test_kvm(self):
        made = qemu.Machine(["a,b.img", "linux.img"], "kvm", 2, 1024).command("serial.log", 7)
        said = " ".join(made)
        for part in ("-machine pc,smm=off,accel=kvm", "-cpu host ", "-smp 2", "-m 1024", "fd=7", "-S", "-no-reboot",
                     "-serial file:serial.log", "a,,b.img,format=raw,if=none,id=disk0",
                     "drive=disk0,bootindex=0", "linux.img,format=raw,if=none,id=disk1", "drive=disk1,bootindex=1"):
            self.assertIn(part, said)

    def test_missing_disk(self):
        with self.assertRaisesRegex(MachineError, "missing disk"):
            qemu.Machine(["/nowhere.img"]).check()

    def test_tcg_has_no_strata(self):
        with self.assertRaisesRegex(MachineError, "no VMX"):
            setup.Setup(kind="tcg", levels=1).check()


class FakeQemu(threading.Thread):
    """The other end of the monitor: answers, with an event before each answer."""

    def __init__(self, answers):
        super().__init__(daemon=True)
        self.ours, self._sock = socket.socketpair()
        self._answers = answers
        self.start()

    def run(self):
        self._say({"QMP": {}})
        with self._sock, self._sock.makefile("r") as lines:
            for line in lines:
                self._say({"event": "RTC_CHANGE", "data": {}})
                self._say(self._answers(json.loads(line)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ours.close()
        self.join()

    def _say(self, message):
        data = json.dumps(message).encode() + b"\r\n"
        self._sock.sendall(data[:5])  # in pieces, as it comes
        self._sock.sendall(data[5:])


class Monitor(unittest.TestCase):
    def test_answers_and_events(self):
        refused = {"error": {"desc": "no such key"}}
        with FakeQemu(lambda r: refused if r["execute"] == "send-key" else {"return": 5}) as other:
            monitor = qmp.Monitor(other.ours)
            monitor.open()
            self.assertEqual(monitor.execute("cont"), 5)
            with self.assertRaisesRegex(MachineError, "no such key"):
                monitor.execute("send-key", keys=[])
            self.assertEqual([e["event"] for e in monitor.events], ["RTC_CHANGE"] * 3)
            self.assertIsNone(monitor.shutdown_reason())
            other._say({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}})
            self.assertEqual(monitor.shutdown_reason(), "guest-reset")

    def test_gone(self):
        ours, theirs = socket.socketpair()
        theirs.close()
        with ours, self.assertRaisesRegex(MachineError, "gone"):
            qmp.Monitor(ours).open()


class Perf(unittest.TestCase):
    def test_exits(self):
        self.assertEqual(perf.exits(PERF_KVM), {"vmexit.VMRESUME": 1604, "vmexit.CPUID": 1137,
                                                "vmexit.EXTERNAL_INTERRUPT": 812, "vmexit.HLT": 325})

    def test_tracepoints(self):
        self.assertEqual(perf.tracepoints(PERF_STAT), {"kvm:kvm_entry": 3890, "kvm:kvm_exit": 3878,
                                                       "kvm:kvm_nested_vmexit": 1604})

    def recorded(self, script):
        """What a Recorder has after a run, with SCRIPT as the program perf."""
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "bin/perf"
            program.parent.mkdir()
            program.write_text("#!/bin/bash\n" + script)
            program.chmod(0o755)
            (Path(folder) / "kvm.txt").write_text(PERF_KVM)
            (Path(folder) / "stat.txt").write_text(PERF_STAT)
            old = os.environ["PATH"]
            os.environ["PATH"] = f"{program.parent}:{old}"
            try:
                with perf.Recorder(os.getpid(), folder) as recorder:
                    pass
                return recorder.counts()
            finally:
                os.environ["PATH"] = old

    def test_recorder(self):
        """Both recordings are ended politely, and what they wrote is read."""
        counts = self.recorded("""
here=$(dirname "$0")/..
case "$*" in
"kvm -i"*report*) cat "$here/kvm.txt"; exit ;;
stat*) trap 'cp "$here/stat.txt" "$here/perf.stat"; exit' INT ;;
kvm*record*) trap 'exit' INT ;;
esac
while :; do sleep 0.05; done
""")
        self.assertEqual(counts["vmexit.CPUID"], 1137)
        self.assertEqual(counts["kvm:kvm_nested_vmexit"], 1604)

    def test_recorder_that_cannot(self):
        with self.assertRaisesRegex(MachineError, "does not record: Error: Permission denied"):
            self.recorded("echo 'Error: Permission denied'; exit 1")


def memory(lines, highlight):
    made = bytearray()
    for n in range(screen.LINES):
        text = lines.get(n, "").ljust(screen.COLUMNS)
        for character in text:
            made += bytes((ord(character), 0x70 if n == highlight else 0x07))
    return bytes(made)


class Outside(unittest.TestCase):
    MENU = {5 + n: f" *entry {n + 1}" for n in range(4)}

    def test_screen(self):
        seen = screen.decode(memory(self.MENU, 6))
        self.assertEqual(keyboard_outside._menu_rows(seen), [5, 6, 7, 8])
        self.assertEqual(seen.highlighted([5, 6, 7, 8]), 6)
        self.assertIsNone(keyboard_outside._menu_rows(screen.decode(memory(self.MENU, 20))))

    def press_all(self, answers):
        """GRUB, as far as its screen goes, on the other end of a monitor."""
        state = {"row": 5, "typed": None}

        def answer(request):
            if request["execute"] == "send-key" and answers:
                key = request["arguments"]["keys"][0]["data"]
                if key in ("down", "up"):
                    state["row"] += 1 if key == "down" else -1
                elif state["typed"] is None:
                    state["typed"] = ""
                else:
                    state["typed"] += key
            if request["execute"] == "pmemsave":
                shown = self.MENU if state["typed"] is None else {9: f"grub> {state['typed']}"}
                Path(request["arguments"]["filename"]).write_bytes(memory(shown, state["row"]))
            return {"return": {}}

        class Silent:
            def phase(self, _text):
                pass
        samples = {"menu": [], "line": [], "look": []}
        with FakeQemu(answer) as other, tempfile.TemporaryDirectory() as folder:
            monitor = qmp.Monitor(other.ours)
            monitor.open()
            outside = keyboard_outside._Outside(monitor, Path(folder) / "screen.bin", samples["look"])
            keyboard_outside._press_all(outside, 9, samples, Silent(), 1e12)
        return samples

    def test_presses(self):
        samples = self.press_all(answers=True)
        self.assertEqual((len(samples["menu"]), len(samples["line"])), (6, 3))
        made = keyboard_outside._metrics(samples)
        self.assertFalse(any(one["exact"] for one in made.values()))
        self.assertTrue({"menu.redrawn.p95", "line.redrawn.max", "look.median"} <= made.keys())

    def test_no_answer(self):
        old, keyboard_outside.ANSWER_S = keyboard_outside.ANSWER_S, 0.2
        try:
            with self.assertRaisesRegex(keyboard_outside.NoAnswer, "did not answer key 'down'"):
                self.press_all(answers=False)
        finally:
            keyboard_outside.ANSWER_S = old


class NeverGated(unittest.TestCase):
    def result(self, exits):
        run = result.Run(None, {"nested.cpuid.ticks": result.metric(exits, "ticks")},
                         [{"phase": "whole run", "level": 0, "per": 1, "counter": "vmexit.CPUID", "count": exits}],
                         None, 1)
        return result.assemble("exit-cost", {"levels": 1, "smp": 1, "cpu": "host", "options": {}, "memory_mib": 512,
                                             "ips": None, "scenario": {}},
                               {"commit": None, "changed": False, "strata_sha256": None},
                               {"kind": "kvm", "version": "QEMU 7.2"}, {"cpu": "x", "kernel": "6.1"},
                               [result.inexact(run)])

    def test_what_kvm_says_fits_the_schema_and_never_fails(self):
        old, new = self.result(100), self.result(200)
        result.check(old)
        found = compare.rows(old, new)
        self.assertEqual({r.name: r.percent for r in found},
                         {"nested.cpuid.ticks": 100, "whole run: L0 vmexit.CPUID": 100})
        self.assertEqual(compare.worse(found, 0, either_way=True), [])


@unittest.skipUnless(os.environ.get("BENCH_EMULATOR") and qemu.missing("tcg") is None, "EMULATOR=1 runs it, with QEMU")
class Tcg(unittest.TestCase):
    def run_bench(self, *words, status=0):
        with tempfile.TemporaryDirectory(prefix="strata-bench-") as folder:
            out = Path(folder) / "result.json"
            done = subprocess.run([TOP / "bench/run", *words, "--machine", "tcg", "--levels", "0", "--out", out,
                                   "--work", Path(folder) / "work"], capture_output=True, text=True)
            self.assertEqual(done.returncode, status, done.stderr[-2000:])
            return result.load(out)

    def test_linux(self):
        made = self.run_bench("linux-boot", "--smp", "2")
        self.assertIn("kernel-to-init", made["runs"][0]["metrics"])
        self.assertEqual(made["machine"]["kind"], "tcg")

    def test_the_keyboard_disk_works_here_too(self):
        found = self.run_bench("grub-keyboard", "--presses", "9", "--limit", "120")["runs"][0]["metrics"]
        self.assertEqual(len(found["line.redrawn.median"]["samples"]), 3)
        self.assertFalse(found["line.redrawn.median"]["exact"])

    def test_keys_from_outside(self):
        found = self.run_bench("grub-keyboard-outside", "--presses", "9")["runs"][0]["metrics"]
        self.assertEqual(len(found["menu.redrawn.median"]["samples"]), 6)

    def test_hang_is_reported(self):
        made = self.run_bench("linux-boot", "--limit", "2", status=1)
        self.assertIn("out of time", made["runs"][0]["problem"])
        self.assertFalse(made["complete"])


if __name__ == "__main__":
    unittest.main()
