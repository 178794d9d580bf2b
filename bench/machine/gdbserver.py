"""gdb's remote protocol for a machine in Bochs, as far as looking and stopping need it.

A CPU is a thread, numbered from 1. Memory is that of the Strata nearest the machine, whatever the CPU executes: the image at
its linked addresses, all else physical, as Strata itself maps it. `monitor view cpu` shows memory as the CPU sees it, `monitor
view strata` is the way back. Breakpoints are at linear addresses, and every level is linked at the same ones: those of other
levels are passed over unless `monitor level any` is said. Any other `monitor` command goes to Bochs's debugger.
"""

import re
import socket
import subprocess

from . import MachineError

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip")
NARROW = ("eflags", "cs", "ss", "ds", "es", "fs", "gs")
STOPPED_AT = re.compile(r"^\((\d)\) Breakpoint \d+,", re.M)
MAPS_TO = re.compile(r"maps to physical page 0x([0-9a-f]+)")
PAGE = 4096
SIGINT, SIGTRAP = 2, 5


class GdbServer:
    """MONITOR's machine, stopped where Strata first enters its guest. symbols: {name: address} of the image."""

    def __init__(self, monitor, symbols):
        self._monitor = monitor
        self._image = (symbols["image_start"], symbols["image_end"])
        self._entry = symbols["guest_start"]
        self._cpu, self._view, self._any_level = 0, "strata", False

    def begin(self, path):
        """Runs to the first entry (by the Strata nearest the machine: no other has been loaded yet), then listens at PATH."""
        self._monitor.stop_at(self._entry)
        self._monitor.send("c")
        self._stopped(self._monitor.wait())
        self._monitor.pass_at(self._entry)
        self._cr3 = self._monitor.registers()["cr3"]
        found = MAPS_TO.search(self._monitor.ask(f"page 0x{self._image[0]:x}"))
        if not found:
            raise MachineError("Strata's image is not where it is linked")
        self._physical = int(found[1], 16)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)

    def serve(self):
        """One gdb after the other until one says `kill` or the machine is gone."""
        with self._listener:
            while self._monitor.alive():
                gdb, _ = self._listener.accept()
                with gdb:
                    if self._talk(gdb):
                        return

    def _talk(self, gdb):
        """True: gdb wants the machine ended."""
        self._gdb, pending = gdb, b""
        while True:
            data = gdb.recv(65536)
            if not data:
                return False
            pending += data
            while True:
                pending = pending.lstrip(b"+-\x03")
                packet = re.match(rb"\$([^#]*)#[0-9a-fA-F]{2}", pending)
                if not packet:
                    break
                pending = pending[packet.end():]
                gdb.sendall(b"+")
                command = packet[1].decode("latin-1")
                if command == "k":
                    return True
                try:
                    self._reply(self._answer(command))
                except MachineError:
                    if not self._monitor.alive():
                        if command[0] in "csv":  # the answer to a run; to anything else gdb expects no such thing
                            self._reply("W00")
                        return True
                    self._reply("E01")

    def _reply(self, text):
        body = text.encode("latin-1")
        self._gdb.sendall(b"$" + body + b"#%02x" % (sum(body) & 0xff))

    def _say(self, text):
        self._reply("O" + text.encode().hex())

    def _answer(self, command):
        if command.startswith("qSupported"):
            return "PacketSize=4000;vContSupported+"
        if command == "?":
            return self._where()
        if command == "vCont?":
            return "vCont;c;C;s;S"
        if command.startswith("vCont;"):
            return self._run(command.split(";")[1])
        if command[0] in "cs":
            return self._run(command)
        handler = {"g": self._registers, "m": self._memory, "H": self._thread, "T": lambda _: "OK", "D": lambda _: "OK",
                   "z": self._breakpoint, "Z": self._breakpoint}.get(command[0])
        if handler:
            return handler(command)
        if command == "qfThreadInfo":
            return "m" + ",".join(f"{n + 1:x}" for n in range(self._monitor.machine.cpus))
        if command == "qsThreadInfo":
            return "l"
        if command == "qC":
            return f"QC{self._cpu + 1:x}"
        if command == "qAttached":
            return "1"
        if command.startswith("qThreadExtraInfo"):
            return f"CPU {int(command.split(',')[1], 16) - 1}".encode().hex()
        if command.startswith("qRcmd,"):
            return self._command(bytes.fromhex(command[6:]).decode())
        return ""

    def _where(self, signal=SIGTRAP):
        return f"T{signal:02x}thread:{self._cpu + 1:x};"

    def _thread(self, command):
        number = int(command[2:], 16) if command[2:] != "-1" else 0
        if command[1] == "g" and number > 0:
            self._select(number - 1)
        return "OK"

    def _select(self, cpu):
        self._cpu = cpu
        self._monitor.select(cpu)

    def _registers(self, _):
        known = self._monitor.registers()
        return "".join(known[name].to_bytes(8, "little").hex() for name in GENERAL) + \
            "".join(known[name].to_bytes(4, "little").hex() for name in NARROW)

    def _memory(self, command):
        address, size = (int(word, 16) for word in command[1:].split(","))
        if self._view == "cpu":
            return self._monitor.read(address, size, "x").hex()
        data = b""
        while size:
            if self._image[1] <= address or self._physical_end() <= address < self._image[0]:
                raise MachineError(f"no memory at {address:x}")  # Bochs would give up
            n = min(size, PAGE - address % PAGE)
            inside = self._image[0] <= address < self._image[1]
            data += self._monitor.read(address - self._image[0] + self._physical if inside else address, n)
            address, size = address + n, size - n
        return data.hex()

    def _physical_end(self):
        return max(4 << 30, self._monitor.machine.memory_mib << 20)

    def _breakpoint(self, command):
        kind, address = command[1], int(command.split(",")[1], 16)
        if kind not in "01":
            return ""
        if command[0] == "Z":
            self._monitor.stop_at(address)
        else:
            self._monitor.pass_at(address)
        return "OK"

    def _run(self, how):
        if how[0] in "sS":
            self._stopped(self._monitor.ask(f"s {self._cpu} 1"))
            return self._where()
        while True:
            self._monitor.send("c")
            said = self._monitor.wait(wake=self._gdb)
            if said is None:  # gdb's user pressed Ctrl-C
                self._gdb.recv(1)
                self._monitor.interrupt()
                self._stopped(self._monitor.wait())
                return self._where(SIGINT)
            at_breakpoint = self._stopped(said)
            if not at_breakpoint or self._any_level or self._monitor.registers()["cr3"] == self._cr3:
                return self._where()

    def _stopped(self, said):
        """Selects the CPU that stopped; true if it is at a breakpoint."""
        found = STOPPED_AT.search(said)
        if found:
            self._select(int(found[1]))
        return bool(found)

    def _command(self, words):
        if words in ("view cpu", "view strata"):
            self._view = words.split()[1]
        elif words in ("level any", "level 1"):
            self._any_level = words == "level any"
        else:
            if words == "base":
                said = f"{self._physical:x} {self._cr3:x}\n"
            else:
                said = self._monitor.ask(words)
            for start in range(0, len(said), 1000):
                self._say(said[start:start + 1000])
        return "OK"


def symbols(image):
    """{name: address} of an ELF file."""
    said = subprocess.run(["nm", image], capture_output=True, text=True, check=True).stdout
    return {words[2]: int(words[0], 16) for words in map(str.split, said.splitlines()) if len(words) == 3}
