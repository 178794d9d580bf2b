"""KVM as the machine below, on a host that has none: QEMU's machine inside Debian with KVM inside Bochs.

The same QEMU command line as on a host with KVM (machine/qemu.py), the same disks. What Bochs's Debian (L0) says of itself
begins with "strata-below:", all else on its console is the serial line of QEMU's machine. Ticks are those of that
machine's time-stamp counter, which begins near 0 when QEMU starts it: Bochs's own, one an instruction.
"""

import re
import shlex
from pathlib import Path

from machine import MachineError, bochs, image, linux, qemu
from machine.process import Verdict

from . import disk, exits

FILES = disk.GUEST_FILES / "below"
WORDS = re.compile(r"^strata-below: (.*)$", re.M)
# Where somebody wants to know what L0 has counted so far: who ("l3| ": the nested guest of the one who speaks), which mark.
MARK = re.compile(r"^((?:l3\| )*)bench-mark: (\S+).*$")
COUNTED = re.compile(r"^strata-below: exits=(\d+) irq=(\d+) io=(\d+)$")
GAVE_UP = re.compile(r"^.*(?:KVM: entry failed|KVM internal error|kvm run failed|KVM: unknown exit).*$", re.M)
IPS = 50_000_000
CPU = "corei7_skylake_x"
OVERHEAD_MIB = 224  # Debian, QEMU and its libraries in memory; the disks come on top
HERE = "Debian with KVM inside Bochs, for this host has no KVM with nested VMX: "


def lacking():
    """Why QEMU cannot run on this host's own KVM, in one line; None if it can."""
    return qemu.missing("kvm", with_perf=False)


def run(machine, out_dir, on_serial=None, on_tick=None, limit_s=3600, stall_s=600, ips=IPS, cpu=CPU, counts=False, words=""):
    """Run MACHINE (a qemu.Machine) to its end: a process.Verdict, as qemu.run gives it.

    counts  L0 counts exits by reason, too; each exit is some hundred instructions longer then
    words   more for L0's command line: parameters of its modules
    """
    machine.check()
    out_dir = Path(out_dir).resolve()
    out_dir.mkdir(parents=True, exist_ok=True)
    heard = _Heard(on_serial)
    disks = _build(machine, out_dir, ips, f"{words} below.counts={int(counts)}")
    memory = OVERHEAD_MIB + machine.memory_mib + sum(Path(d).stat().st_size for d in [disks[-1], *machine.disks, *machine.data]) // 2**20
    outer = bochs.Machine(disks, cpu, machine.cpus, ips, memory)
    verdict = bochs.run(outer, out_dir, heard.feed, on_tick, limit_s, stall_s)
    return heard.verdict(verdict)


def _build(machine, out_dir, ips, words):
    """L0's own two disks: GRUB with Debian's kernel, and the archive with QEMU and what it takes."""
    boot, archive = out_dir / "below.img", out_dir / "below-archive.img"
    initrd, script = out_dir / "below-initrd.gz", out_dir / "below-qemu"
    disk.build_initramfs(initrd, init=FILES / "init")
    image.grub_disk(boot, {"/boot/vmlinuz": linux.find_kernel(), "/boot/initrd": initrd},
                    f"linux /boot/vmlinuz {linux.command_line(ips, f'kvm_intel.nested=1 {words}')}\ninitrd /boot/initrd\nboot")
    images = {Path(d).resolve(): f"below/disk-{i}.img" for i, d in enumerate([*machine.disks, *machine.data])}
    if not disk.QEMU.is_file():
        raise MachineError(f"missing {disk.QEMU} (Debian package qemu-system-x86); run bench/setup.sh --for kvm")
    command = ["/usr/bin/" + qemu.PROGRAM, "-no-user-config", "-L", disk.SEABIOS, "-L", disk.ROMS,
               *machine.words(lambda d: "/" + images[Path(d).resolve()]), "-serial", "stdio"]
    script.write_text(shlex.join(map(str, command)) + "\necho $? >/tmp/status\n")
    relay = disk.compiled(out_dir / "below-relay", FILES / "relay.c", disk.PROGRAM_FLAGS)
    files = {str(p).lstrip("/"): p for p in (disk.QEMU, *disk.libraries(disk.QEMU), *disk.firmware())}
    if machine.firmware == "uefi":
        files[str(qemu.OVMF).lstrip("/")] = qemu.OVMF
    files |= {"below/qemu": script, "below/relay": relay} | {inside: path for path, inside in images.items()}
    disk.write(archive, files)
    return [boot, archive]


class _Heard:
    """What L0 says: when QEMU started and ended, how, and what KVM counted."""

    def __init__(self, on_serial):
        self._on_serial, self._text = on_serial, ""
        self.words, self.counts, self.dmesg, self.gave_up = {}, {}, [], None
        self.marks = []  # [mark, exits but for interrupts] in order

    def feed(self, data):
        self._text += data.decode("utf-8", "replace").replace("\r", "")
        done, _, self._text = self._text.rpartition("\n")
        for line in done.split("\n"):
            self._mark(line)
        for said in WORDS.findall(done):
            self._said(said)
        self.gave_up = self.gave_up or GAVE_UP.search(done)
        return bool(self.gave_up) or bool(self._on_serial and self._on_serial(data))

    def _mark(self, line):
        if found := MARK.match(line):
            self.marks.append([found[1] + found[2], None])
        elif (found := COUNTED.match(line)) and self.marks:
            self.marks[-1][1] = int(found[1]) - int(found[2])

    def _said(self, text):
        if text.startswith("dmesg="):
            self.dmesg.append(text.removeprefix("dmesg="))
            return
        words = dict(w.split("=", 1) for w in text.split() if "=" in w)
        if "reason" in words:
            self.counts[f"vmexit.{exits.name_of(words['reason'])}"] = int(words["count"])
        elif "stage" in words:
            self.words |= words | {words["stage"]: int(words.get("tsc", 0))}

    def verdict(self, outer):
        """What became of QEMU's machine, from what became of L0."""
        ended, detail, ticks = outer.ended, outer.detail, outer.ticks
        if "qemu" in self.words and "qemu-ended" in self.words:
            ticks = self.words["qemu-ended"] - self.words["qemu"]
        if self.gave_up:
            ended, detail = "qemu failed", self.gave_up.group().strip()
        elif "problem" in self.words:
            ended, detail = "qemu failed", f"L0: {self.words['problem']}"
        elif ended == "power-off" and self.words.get("qemu") is None:
            ended, detail = "qemu failed", "L0 ended before it started QEMU"
        elif ended == "power-off" and self.status() != "0":
            ended, detail = "qemu failed", f"QEMU's status {self.status()}"
        return Verdict(ended, detail, ticks, outer.wall_s, outer.serial, outer.log, self.counts, self.marks)

    def status(self):
        return self.words.get("status", "")
