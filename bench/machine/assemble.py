"""Programs that run without an operating system, from assembler source to the bytes that are loaded."""

import subprocess
import tempfile
from pathlib import Path

from . import MachineError

TOP = Path(__file__).resolve().parents[2]


def flat(source, at, start="_start", **defines):
    """The code of SOURCE, linked to run at the address AT, its entry the symbol START; DEFINES for its preprocessor."""
    with tempfile.TemporaryDirectory() as scratch:
        elf, code = Path(scratch) / "elf", Path(scratch) / "code"
        for command in (["gcc", "-m32", "-nostdlib", "-static", "-no-pie", f"-I{TOP}",
                         *(f"-D{name}={value}" for name, value in defines.items()),
                         f"-Wl,--build-id=none,-melf_i386,-Ttext={at:#x},-e,{start}", "-o", elf, source],
                        ["objcopy", "-O", "binary", "-j", ".text", elf, code]):
            try:
                done = subprocess.run(command, capture_output=True, text=True)
            except FileNotFoundError:
                raise MachineError(f"missing tool {command[0]} (Debian package gcc)") from None
            if done.returncode:
                raise MachineError(f"{command[0]} failed: " + " ".join(done.stderr.split())[:300])
        return code.read_bytes()
