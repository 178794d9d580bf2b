"""The runner's command line and the scenarios' reading of the serial line, without an emulator."""

import json
import struct
import subprocess
import sys
import tempfile
import unittest
from unittest import mock
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bench"))
sys.dont_write_bytecode = True

from machine import MachineError, assemble, bochs, hook, linux, process, report, stack, watch  # noqa: E402
from suite import exit_cost, keyboard, linux_boot, setup, trace  # noqa: E402


class Silent:
    def tick(self):
        pass

    def phase(self, _text):
        pass

    def stage(self, _stage):
        pass


def verdict(ended="matched", detail=""):
    return process.Verdict(ended, detail, 5, 1.0, Path("/dev/null"), Path("/dev/null"))


class Options(unittest.TestCase):
    def test_options(self):
        self.assertEqual(setup.parse_options("shadow=off,history=off"), "shadow=off history=off")
        for bad in ("shadow", "a=b;c=d", "x=$y", "a=b c=d"):
            with self.assertRaises(MachineError):
                setup.parse_options(bad)

    def test_level_options(self):
        found = setup.parse_level_options(["2:lapic=trap", "2:large=off"])
        self.assertEqual(found, {2: "lapic=trap large=off"})
        with self.assertRaises(MachineError):
            setup.parse_level_options(["lapic=trap"])

    def test_one_level_less_keeps_the_upper_ones(self):
        made = setup.Setup(levels=2, level_options={1: "shadow=off", 2: "large=off"})
        fewer = exit_cost._one_level_less(made)
        self.assertEqual((fewer.levels, fewer.level_options), (1, {1: "large=off"}))

    def test_storm_is_the_topmost(self):
        made = linux_boot.storm(setup.Setup(levels=2))
        self.assertEqual(made.level_options, {2: "lapic=trap"})
        with self.assertRaises(MachineError):
            linux_boot.storm(setup.Setup(levels=1))

    def test_bad_requests_end_with_2(self):
        for words in (["exit-cost", "--levels", "9"], ["exit-cost", "--runs", "0"],
                      ["exit-cost", "--cpu", "z80"], ["exit-cost", "--set", "nonsense"],
                      ["invept-storm", "--levels", "1"], ["grub-keyboard-outside"],
                      ["exit-cost", "--set-level", "3:a=b"]):
            done = subprocess.run([TOP / "bench/run", *words, "--out", "/dev/null"],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, words)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)


class ExitCost(unittest.TestCase):
    def line(self, **more):
        return ("bench-json: " + json.dumps({"item": "nested.cpuid", "unit": "ticks",
                                             "samples": [9, 7, 8], **more}) + "\r\n").encode()

    def watched(self, data, how=None):
        seen = exit_cost._Watch(setup.Setup(), Silent())
        for at in range(0, len(data), 7):  # in pieces, as it comes
            seen.feed(data[at:at + 7])
        return seen.result(how or verdict())

    def test_item(self):
        one = self.watched(self.line(counters={"L1": {"exit.l3.cpuid": 64}}, per=32)
                           + b"bench-end: exit-cost\r\n")
        self.assertIsNone(one.problem)
        self.assertEqual(one.metrics["nested.cpuid.ticks"]["value"], 8)
        self.assertEqual(one.metrics["nested.cpuid.exits-to-L1"]["value"], 2)

    def test_hang_keeps_what_there_is(self):
        one = self.watched(self.line(), verdict("stalled", "no serial output for 60 s"))
        self.assertEqual(one.problem, "stalled: no serial output for 60 s")
        self.assertIn("nested.cpuid.ticks", one.metrics)

    def test_only_bochs_traces(self):
        with self.assertRaisesRegex(MachineError, "only Bochs"):
            exit_cost.run(setup.Setup(kind="tcg", levels=0), Path("/nowhere"), Silent(), traced="guest.cpuid")

    def test_failure_in_the_guest(self):
        one = self.watched(self.line() + b"FAIL cost.nested: unexpected fault\r\n"
                           b"bench-end: exit-cost\r\n")
        self.assertIn("unexpected fault", one.problem)

    def test_a_strata_that_gives_up_ends_the_run(self):
        seen = exit_cost._Watch(setup.Setup(), Silent())
        seen.feed(self.line() + b"strata[L1] 99: panic: \"ept02\" at ept02.c:70\r\n")
        self.assertFalse(seen.tick())  # more may be said
        seen._over_since -= watch.SETTLE_S + 1
        self.assertTrue(seen.tick())
        one = seen.result(verdict())
        self.assertIn("panic", one.problem)
        self.assertIn("nested.cpuid.ticks", one.metrics)

    def test_garbled_line(self):
        one = self.watched(b"bench-json: {\"item\":}\r\nbench-end: exit-cost\r\n")
        self.assertIn("unreadable", one.problem)

    def test_nothing_measured(self):
        self.assertIn("nothing", self.watched(b"bench-end: exit-cost\r\n").problem)


class ForPeople(unittest.TestCase):
    def test_counters_left_out(self):
        said = b"a\r\nstrata-json: {1}\r\nb sstrata-json: {2}\nc strata-j\nstr"
        for at in range(len(said) + 1):
            for then in range(at, len(said) + 1):
                seen = bochs.WithoutReports()
                out = b"".join(map(seen.pass_on, (said[:at], said[at:then], said[then:])))
                self.assertEqual(out + seen.rest(), b"a\r\nb sc strata-j\nstr")

    def test_echoed_key(self):
        seen = bochs.WithoutReports()
        self.assertEqual(seen.pass_on(b"s"), b"")
        self.assertEqual(seen.rest(), b"s")
        self.assertEqual(seen.pass_on(b"trata-json: x\ny"), b"trata-json: x\ny")

    def test_warnings_and_mode(self):
        def table(*lines):
            seen = watch.Watch(2)
            for line in lines:
                seen.line(line)
            return "\n".join(report.table(verdict(), seen))
        said = table("strata[L1] 5: warning: option shadw=on: unknown", "strata[L2] 9: warning: option shadw=on: unknown",
                     "strata-guest: stage=init cpus=2 possible=2 x2apic=0 tsc=7")
        self.assertIn("Strata L1/L2 warns: option shadw=on: unknown", said)
        self.assertIn("2 of 2, xAPIC", said)
        said = table("strata-guest: stage=init cpus=2 possible=2 tsc=7")
        self.assertIn("2 of 2\n", said + "\n")
        self.assertNotIn("APIC", said)


class Keyboard(unittest.TestCase):
    def test_script(self):
        made = keyboard.script(100)
        steps = [tuple(made[at:at + 2]) for at in range(0, len(made), 2)]
        measured = [s for s in steps if s[0] in (keyboard.MENU, keyboard.LINE)]
        self.assertEqual(len(measured), 100)
        self.assertEqual([s[1] for s in steps if s[0] == keyboard.MARK], [1, 2, 3, 4])
        self.assertEqual(steps[-1], (keyboard.END, 0))

    def test_programs_fit(self):
        loader = assemble.flat(keyboard.SOURCES / "loader.S", 0x7C00)
        resident = assemble.flat(keyboard.SOURCES / "resident.S", 0)
        self.assertLessEqual(len(loader), keyboard.LOADER_MAX)
        self.assertLessEqual(len(resident) + len(keyboard.script(keyboard.PRESSES_MAX)),
                             keyboard.RESIDENT_SECTORS * 512)

    def test_presses_and_exits(self):
        def report(marker, exits):
            return ("strata-json: " + json.dumps({"level": 1, "marker": marker, "tsc": 1, "cpus": 1,
                                                  "counters": {"exit.l2.cpuid": exits}}) + "\r\n")
        text = report(1, 10) + report(2, 30) + report(3, 40) + report(4, 40)
        text += "".join(f"bench-key: {kind:08x} 00000010 {ticks:08x} {2 * ticks:08x} \r\n"
                        for kind, ticks in ((1, 100), (1, 300), (1, 200), (1, 250), (2, 50)))
        seen = keyboard._Watch(setup.Setup(), Silent())
        seen.feed((text + "bench-end: grub-keyboard\r\n").encode())
        one = seen.result(verdict("power-off"), 5)
        self.assertIsNone(one.problem)
        self.assertEqual(one.metrics["menu.redrawn.median"]["value"], 450)
        self.assertEqual(one.metrics["menu.redrawn.max"]["value"], 600)
        self.assertEqual(one.metrics["menu.exits-to-L1"]["value"], 5)
        self.assertEqual(one.metrics["line.exits-to-L1"]["value"], 0)

    def test_missing_presses(self):
        seen = keyboard._Watch(setup.Setup(), Silent())
        seen.feed(b"bench-end: grub-keyboard\r\n")
        self.assertIn("0 of 5 presses", seen.result(verdict("power-off"), 5).problem)


class LinuxBoot(unittest.TestCase):
    SERIAL = ("strata[L1] 50: continuing boot from drive 81h\r\n"
              'strata-json: {"level":1,"marker":3,"tsc":1,"cpus":1,"counters":{"exit.l2.cpuid":5}}\r\n'
              "strata-guest: stage=grub-boot tsc=0x0000000000000064\n"
              "strata-guest: stage=kernel tsc=0x0000000000000078 after=0x00000000000000C8\n"
              "strata-guest: stage=init cpus=1 tsc=1000\r\n"
              'strata-json: {"level":1,"marker":1,"tsc":1,"cpus":1,"counters":{"exit.l2.cpuid":9}}\r\n'
              'strata-json: {"level":1,"marker":2,"tsc":1,"cpus":1,"counters":{"exit.l2.cpuid":10}}\r\n'
              "strata-guest: stage=shutdown tsc=1500\r\n")

    def seen(self, text):
        seen = watch.Watch(1)
        seen.feed(text.encode())
        return seen

    def metrics(self, text):
        made = linux_boot._metrics(setup.Setup(levels=1), self.seen(text), verdict("power-off"))
        return {name: one["value"] for name, one in made.items()}

    def test_phases(self):
        found = self.metrics(self.SERIAL)
        self.assertEqual(found["grub-boot-to-kernel"], 20)
        self.assertEqual(found["kernel-to-init"], 800)
        self.assertEqual(found["init-to-shutdown"], 500)
        self.assertEqual(found["linux-alone"], 1450)

    def test_exits_by_phase(self):
        rows = linux_boot._counters(self.seen(self.SERIAL))
        self.assertEqual({r["phase"]: r["count"] for r in rows}, {"grub": 5, "kernel": 4, "user": 1})

    def test_a_run_that_ends_early_has_what_there_was(self):
        found = self.metrics(self.SERIAL[:self.SERIAL.index("strata-guest: stage=init")])
        self.assertEqual(found["to-kernel"], 120)
        self.assertNotIn("kernel-to-init", found)


class Kernel(unittest.TestCase):
    def kernel(self, folder, version=0x20F, room=0x10000):
        image = bytearray(5 * 512 + 1000)
        image[0x1F1], image[0x202:0x206] = 4, b"HdrS"
        struct.pack_into("<H", image, 0x206, version)
        struct.pack_into("<I", image, 0x214, 0x100000)
        struct.pack_into("<I", image, 0x260, room)
        path = Path(folder) / "vmlinuz"
        path.write_bytes(image)
        return path

    def test_hook_is_behind_the_image_and_knows_the_way_back(self):
        with tempfile.TemporaryDirectory() as folder:
            old = self.kernel(folder).read_bytes()
            new = hook.hook(Path(folder) / "vmlinuz", Path(folder) / "hooked").read_bytes()
        place = struct.unpack_from("<I", new, 0x214)[0] - 0x100000
        self.assertEqual(place, 1008)  # the next multiple of 16
        self.assertEqual(new[:0x214] + new[0x218:len(old)], old[:0x214] + old[0x218:])
        self.assertIn(struct.pack("<i", -place), new[len(old):])

    def test_kernels_that_cannot_have_one(self):
        with tempfile.TemporaryDirectory() as folder:
            for wrong in ({"version": 0x209}, {"room": 1000}):
                with self.assertRaises(MachineError):
                    hook.hook(self.kernel(folder, **wrong), Path(folder) / "hooked")

    def test_command_line_has_bochs_frequency_only_there(self):
        self.assertIn("tsc_early_khz=10000", linux.command_line(10_000_000))
        self.assertNotIn("tsc_early_khz", linux.command_line())


class Stack(unittest.TestCase):
    def test_any_loader_as_modules(self):
        program = stack.Program({}, "linux /boot/vmlinuz quiet a=b\ninitrd /boot/initrd\nrdmsr -v x 0x10\nboot")
        self.assertEqual(program.as_modules(), "module2 /boot/vmlinuz quiet a=b\nmodule2 /boot/initrd\nrdmsr -v x 0x10\nboot")
        xen = stack.Program({}, "multiboot /boot/xen com1\nmodule /boot/vmlinux\nboot")
        self.assertEqual(xen.as_modules(), "module2 /boot/xen com1\nmodule2 /boot/vmlinux\nboot")

    def test_disks(self):
        made = []
        program = stack.Program({"/boot/guest.elf": "guest.elf"}, "multiboot2 /boot/guest.elf\nboot")
        with mock.patch.object(stack.image, "grub_disk", lambda out, files, cfg: made.append((Path(out).name, sorted(files), cfg))):
            stack.disks("modules", ".", "s.elf", ["a=1", ""], program, "guest")
            self.assertEqual(made, [("guest.img", ["/boot/guest.elf", stack.STRATA], "multiboot2 /boot/strata.elf a=1\n"
                                     "module2 /boot/strata.elf\nmodule2 /boot/guest.elf\nboot")])
            made.clear()
            stack.disks("disks", ".", "s.elf", ["a=1", ""], program, "guest")
            self.assertEqual([name for name, _, _ in made], ["strata-1.img", "strata-2.img", "guest.img"])
            made.clear()
            stack.disks("modules", ".", "s.elf", [], program, "guest")
            stack.strata_disks("modules", ".", "s.elf", ["a=1", "b=2"])
            self.assertEqual(made[0], ("guest.img", ["/boot/guest.elf"], program.commands))
            self.assertEqual(made[1][2], "multiboot2 /boot/strata.elf a=1\nmodule2 /boot/strata.elf b=2\nboot")


class Trace(unittest.TestCase):
    def test_levels_by_place(self):
        text = ("(0).[1] [0x0000004014c3] 0008:00000000004014c3 (unk. ctxt): cpuid       ; 0fa2\n"
                "(0).[2] [0x00001f41892d] 0008:ffffffff8001892d (unk. ctxt): vmread rax, rdx ; 4157\n"
                "(0).[3] [0x00001e41892d] 0008:ffffffff8001892d (unk. ctxt): push r15    ; 4157\n")

        class Symbols:
            def name(self, _address):
                return "vmexit_entry"
        steps = trace._steps(trace.STEP.findall(text), Symbols())
        self.assertEqual([s.level for s in steps], [0, 1, 2])
        self.assertTrue(any("1 vmread" in line for line in trace.table(steps)))


if __name__ == "__main__":
    unittest.main()
