"""make debug: gdb's protocol without an emulator, and with it (EMULATOR=1) a nested exit looked at from gdb."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bench"))
sys.dont_write_bytecode = True

from machine import gdbserver, monitor  # noqa: E402

IMAGE, PHYSICAL, CR3_FIRST, CR3_SECOND = 0xffffffff80000000, 0xf200000, 0x1000, 0x2000
SYMBOLS = {"image_start": IMAGE, "image_end": IMAGE + 0x10000, "guest_start": IMAGE + 0x100}
COMMANDS = """
strata level
hbreak nested_exit
continue
strata level
backtrace 2
strata vmcs12 EXIT_REASON
strata vmcs12 HOST_RIP
continue
strata walk
kill
"""


class FakeMonitor:
    """Two CPUs; memory is the address's own bytes. Each `c` stops by the next of STOPS: (CPU, its CR3)."""

    class machine:
        cpus, memory_mib = 2, 512

    def __init__(self, stops):
        self.stops, self.asked, self.selected, self.at, self.cr3 = stops, [], 0, set(), [0, 0]

    def alive(self):
        return True

    def stop_at(self, address):
        self.at.add(address)

    def pass_at(self, address):
        self.at.discard(address)

    def send(self, command):
        self.asked.append(command)

    def wait(self, seconds=None, wake=None):
        cpu, self.cr3[0] = self.stops.pop(0)
        self.cr3[1] = self.cr3[0]
        return f"Next at t=1\n({cpu}) Breakpoint 1, 0x1 in ?? ()\n"

    def select(self, cpu):
        self.selected = cpu

    def ask(self, command):
        self.asked.append(command)
        return f"linear page 0x{IMAGE:x} maps to physical page 0x{PHYSICAL:x}\n" if command.startswith("page") else "said\n"

    def registers(self):
        names = (*gdbserver.GENERAL, *gdbserver.NARROW)
        return dict(zip(names, range(len(names)))) | {"cr3": self.cr3[self.selected]}

    def read(self, address, size, how="xp"):
        assert how == "x" or address < 4 << 30, "Bochs would end"
        return bytes((address + i) & 0xff for i in range(size)) if how == "xp" else b"\xee" * size


class Protocol(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="strata-debug-")
        self.addCleanup(folder.cleanup)
        self.monitor = FakeMonitor([(1, CR3_FIRST), (0, CR3_SECOND), (1, CR3_FIRST), (0, CR3_SECOND)])
        server = gdbserver.GdbServer(self.monitor, SYMBOLS)
        path = Path(folder.name) / "socket"
        server.begin(path)
        self.thread = threading.Thread(target=server.serve, daemon=True)
        self.thread.start()
        self.gdb = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.gdb.close)
        self.gdb.connect(str(path))

    def ask(self, text):
        """The last packet of the answer; those that gdb shows its user are in self.said."""
        self.gdb.sendall(f"${text}#{sum(text.encode()) & 0xff:02x}".encode())
        self.said, pending = "", b""
        while True:
            pending += self.gdb.recv(65536)
            pending = pending.lstrip(b"+")
            while (packet := re.match(rb"\$([^#]*)#(..)", pending)):
                self.assertEqual(sum(packet[1]) & 0xff, int(packet[2], 16))
                pending = pending[packet.end():].lstrip(b"+")
                body = packet[1].decode()
                if not (body.startswith("O") and body != "OK"):
                    return body
                self.said += bytes.fromhex(body[1:]).decode()

    def command(self, words):
        return self.ask("qRcmd," + words.encode().hex())

    def test_it_waits_at_the_first_entry(self):
        self.assertEqual(self.ask("?"), "T05thread:2;")
        self.assertNotIn(SYMBOLS["guest_start"], self.monitor.at)

    def test_memory_is_the_first_stratas(self):
        """The image where it is linked, everything else at its physical address, whatever the CPU has mapped."""
        self.assertEqual(self.ask(f"m{IMAGE + 0x123:x},2"), bytes([(PHYSICAL + 0x123) & 0xff, (PHYSICAL + 0x124) & 0xff]).hex())
        self.assertEqual(self.ask("m1234,3"), "343536")
        for nowhere in (4 << 30, 1 << 41, IMAGE - 1, SYMBOLS["image_end"], (1 << 64) - 8):
            self.assertEqual(self.ask(f"m{nowhere:x},1"), "E01")
        self.command("view cpu")
        self.assertEqual(self.ask("m1234,1"), "ee")

    def test_registers_in_gdbs_order(self):
        known = self.ask("g")
        self.assertEqual(len(known), 2 * (17 * 8 + 7 * 4))
        self.assertEqual(bytes.fromhex(known)[8:16], (1).to_bytes(8, "little"))
        self.assertEqual(bytes.fromhex(known)[17 * 8:17 * 8 + 4], (17).to_bytes(4, "little"))

    def test_breakpoints_of_other_levels_are_passed(self):
        self.ask(f"Z1,{IMAGE + 0x200:x},1")
        self.assertIn(IMAGE + 0x200, self.monitor.at)
        self.assertEqual(self.ask("vCont;c"), "T05thread:2;")  # CPU 0 stopped before, in another level
        self.command("level any")
        self.assertEqual(self.ask("c"), "T05thread:1;")
        self.ask(f"z1,{IMAGE + 0x200:x},1")
        self.assertNotIn(IMAGE + 0x200, self.monitor.at)

    def test_other_commands_are_bochss(self):
        self.assertEqual(self.command("info tab"), "OK")
        self.assertIn("info tab", self.monitor.asked)
        self.assertEqual(self.said, "said\n")

    def test_kill_ends_it(self):
        self.gdb.sendall(b"$k#6b")
        self.thread.join(5)
        self.assertFalse(self.thread.is_alive())


class Answers(unittest.TestCase):
    def test_values_of_a_dump(self):
        found = monitor.VALUE.findall("[bochs]:\n0x0000000000001000 <bogus+       0>:\t0x12\t0x34\n0x0000000000001010 <bogus+      16>:\t0x56\n")
        self.assertEqual([word for line in found for word in line.split()], ["0x12", "0x34", "0x56"])

    def test_registers(self):
        self.assertEqual(monitor.REGISTER.findall("r8 : 00000001_00000002\nrip: ffffffff_8001a826\n"),
                         [("r8", "00000001", "00000002"), ("rip", "ffffffff", "8001a826")])


@unittest.skipUnless(os.environ.get("BENCH_EMULATOR"), "EMULATOR=1 runs it")
class WithGdb(unittest.TestCase):
    def test_a_nested_exit_from_gdb(self):
        out = TOP / "build/debug"
        (out / "gdb.socket").unlink(missing_ok=True)
        script = out / "test.gdb"
        out.mkdir(parents=True, exist_ok=True)
        script.write_text(COMMANDS)
        held = subprocess.Popen([TOP / "bench/boot", "--debug", "--out", out, "--levels", "2", "--smp", "2"],
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.addCleanup(held.wait)
        self.addCleanup(held.kill)
        end = time.monotonic() + 300
        while not (out / "gdb.socket").exists() and time.monotonic() < end:
            self.assertIsNone(held.poll())
            time.sleep(0.5)
        done = subprocess.run(["gdb", "-q", "-batch", "-x", "bench/gdb/strata.gdb", "-x", script], cwd=TOP,
                              capture_output=True, text=True, timeout=600)
        said = done.stdout
        self.assertNotIn("Error", said + done.stderr)
        self.assertRegex(said, r"CPU \d: Strata \(L1, .*nested/exit.c:\d+\); below it the nested guest")
        self.assertRegex(said, r"#1 .* in exit_dispatch ")
        self.assertRegex(said, r"4402 EXIT_REASON +[0-9a-f]+  (vmcs02|made up)")
        self.assertRegex(said, r"6c16 HOST_RIP +ffffffff8[0-9a-f]+  soft")
        self.assertRegex(said, r"(CR3 [0-9a-f]+|no paging) +ept12 [0-9a-f]+ +ept01 [0-9a-f]+ +ept02 [0-9a-f]+")
        self.assertRegex(said, r"-> [0-9a-f]+, \d+ KiB, rwx WB")
        self.assertIn("ept02 agrees", said)  # the nested guest has just executed an instruction there


if __name__ == "__main__":
    unittest.main()
