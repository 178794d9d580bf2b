"""L2's disk: an archive with QEMU, its libraries and firmware, KVM's nested guest and the scenarios.

L2's initramfs stays small, because GRUB reads it through the emulated BIOS; the archive is read by
Linux's own driver. Both are written in fixed order and with fixed times: equal input, equal bytes.
"""

import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from pathlib import Path

from machine import MachineError, image, linux
from machine.image import CYLINDER

TOP = Path(__file__).resolve().parents[2]
GUEST_FILES = TOP / "tests/linux"
SCENARIOS = GUEST_FILES / "kvm"
MODULES = TOP / "build/cache/kernel"  # an unpacked package; where in it differs between releases of Debian
QEMU = Path("/usr/bin/qemu-system-x86_64")
SEABIOS, ROMS = Path("/usr/share/seabios"), Path("/usr/share/qemu")
FIRMWARE = (SEABIOS / "bios-256k.bin", SEABIOS / "bios.bin", SEABIOS / "vgabios-stdvga.bin", ROMS / "kvmvapic.bin",
            ROMS / "linuxboot_dma.bin", ROMS / "multiboot_dma.bin", ROMS / "pvh.bin")
PERF = Path("/usr/bin/perf")
WANTED = ("ata_piix", "sd_mod", "kvm-intel")
SIGNATURE_END = b"~Module signature appended~\n"  # before it: struct module_signature, 12 bytes, its length last
# What is compiled for L2's disk: a kernel for KVM, and a program of L2's own.
KERNEL_FLAGS = (
    "-m32 -std=gnu11 -O2 -ffreestanding -fno-pic -fno-stack-protector -fcf-protection=none "
    "-fno-asynchronous-unwind-tables -mgeneral-regs-only -Wall -Wextra -Wconversion -Werror "
    "-nostdlib -static -no-pie "
    "-Wl,--build-id=none,-z,noexecstack,--section-start=.multiboot=0x200000,-Ttext=0x201000,-e,start"
).split()
PROGRAM_FLAGS = "-std=gnu11 -Os -Wall -Wextra -Wconversion -Werror -static -s".split()
PROGRAMS = {"cpuid": KERNEL_FLAGS, "vms": PROGRAM_FLAGS}


def build_initramfs(out, init=GUEST_FILES / "kvm-init", wanted=WANTED, modules=MODULES):
    """L2's initramfs: busybox, INIT, and the modules WANTED: those that reach the disk and make the hypervisor."""
    order = module_order(wanted, modules)
    names = [f"{_module_name(m)}.ko" for m in order]
    with tempfile.TemporaryDirectory() as scratch:
        extra = {"init": init, "lib/l2-lib": GUEST_FILES / "l2-lib", "lib/modules/order": Path(scratch) / "order"}
        extra["lib/modules/order"].write_text("".join(f"/lib/modules/{name}\n" for name in names))
        for module, name in zip(order, names):
            extra[f"lib/modules/{name}"] = Path(scratch) / name
            (Path(scratch) / name).write_bytes(_unsigned(module))
        linux.build_initramfs(out, extra=extra)


def words_for(emulator, words):
    """WORDS with what KVM needs on EMULATOR ("Bochs 3.0"), and why, in one line (None: nothing).

    Bochs 3 refuses every address of a posted-interrupt descriptor (VM-entry error 7), bare as well.
    """
    if not re.match(r"Bochs [3-9]", emulator) or "kvm_intel.enable_apicv=" in words:
        return words, None
    return f"{words} kvm_intel.enable_apicv=0".strip(), (
        f"KVM without APIC virtualization (kvm_intel.enable_apicv=0): {emulator} refuses posted-interrupt descriptors")


def build(out, kernel, scenario, ips):
    """Write the archive OUT, padded to whole cylinders: a disk image without a file system.

    scenario  what only some need is left out for the others
    ips       ticks per emulated second, for the nested guest that has a command line of its own
    """
    if not QEMU.is_file():
        raise MachineError(f"missing {QEMU} (Debian package qemu-system-x86); "
                           "run bench/setup.sh --for kvm")
    out = Path(out)
    initrd = out.with_name("l3-initrd.gz")
    linux.build_initramfs(initrd, extra={"init": SCENARIOS / "l3-init"})
    files = {str(p).lstrip("/"): p for p in (QEMU, *libraries(QEMU), *firmware())}
    files |= {"kvm/vmlinuz": kernel, "kvm/initrd": initrd}
    for name, flags in PROGRAMS.items():
        files[f"kvm/{name}.elf"] = compiled(out.with_name(f"{name}.elf"), SCENARIOS / f"{name}.c", flags)
    if scenario == "perf":
        if not PERF.is_file():
            raise MachineError(f"missing {PERF} (Debian package linux-perf); run bench/setup.sh --for kvm")
        files |= {str(p).lstrip("/"): p for p in (PERF, *libraries(PERF))}
    if scenario == "nested":
        files["kvm/l2-initrd"] = out.with_name("kvm-initrd.gz")
        build_initramfs(files["kvm/l2-initrd"])
    if scenario == "disk":
        files["kvm/l3.img"] = out.with_name("l3.img")
        image.grub_disk(files["kvm/l3.img"], {"/boot/vmlinuz": kernel, "/boot/initrd": initrd},
                        f"linux /boot/vmlinuz {linux.command_line(ips)}\ninitrd /boot/initrd\nboot")
    files |= {f"kvm/{p.name}": p for p in SCENARIOS.iterdir() if not p.suffix and p.name != "l3-init"}
    write(out, files)


def write(out, files):
    """Write the archive OUT of FILES ({"name": path}), padded to whole cylinders."""
    temporary = out.with_name(out.name + ".new")
    temporary.write_bytes(_archive(files))
    size = -(-temporary.stat().st_size // CYLINDER) * CYLINDER
    os.truncate(temporary, size)
    os.replace(temporary, out)


def _archive(files):
    """The bytes of an archive of FILES ({"name": path}) and of the directories that they need."""
    archive = linux._Archive()
    directories = {str(p) for name in files for p in Path(name).parents if str(p) != "."}
    for name in sorted(directories):
        archive.add(name, stat.S_IFDIR | 0o755)
    for name, source in sorted(files.items()):
        archive.add(name, stat.S_IFREG | 0o755, Path(source).read_bytes())
    return archive.finish()


def module_order(wanted, modules=MODULES):
    """Paths of the modules WANTED below MODULES and of all that they need, each after what it needs."""
    found = {_module_name(p).replace("-", "_"): p for p in modules.rglob("*.ko*")}
    if not found:
        raise MachineError(f"no kernel modules in {modules}; run make setup")
    order = []

    def visit(name):
        path = found.get(name.replace("-", "_"))
        if not path:
            raise MachineError(f"no module {name} in {modules}")
        if path in order:
            return
        needed = re.search(rb"(?:^|\0)depends=([^\0]*)\0", _module_bytes(path)).group(1).decode()
        for other in filter(None, needed.split(",")):
            visit(other)
        order.append(path)

    for name in wanted:
        visit(name)
    return order


def _module_name(path):
    """"kvm-intel" of kvm-intel.ko, also of kvm-intel.ko.xz."""
    return path.name.partition(".ko")[0]


def _module_bytes(path):
    """What the kernel would load: newer Debian kernels come with their modules compressed."""
    data = path.read_bytes()
    if path.suffix == ".ko":
        return data
    if path.suffix != ".xz":
        raise MachineError(f"{path}: compressed in a way that is not known here (.ko and .ko.xz are)")
    try:
        return lzma.decompress(data)
    except lzma.LZMAError as error:
        raise MachineError(f"{path}: {error}") from None


def libraries(program, purpose="kvm"):
    """The shared libraries of PROGRAM and its loader, as the paths that the loader opens."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    missing = re.findall(r"^\s*(\S+) => not found", said, re.M)
    if missing:
        raise MachineError(f"{program} lacks {' '.join(missing)}; run bench/setup.sh --for {purpose}")
    return sorted(map(Path, set(re.findall(r"(/\S+) \(0x", said))))


def firmware():
    for path in FIRMWARE:
        if not path.is_file():
            raise MachineError(f"missing {path}; run bench/setup.sh --for kvm")
    return FIRMWARE


def compiled(out, source, flags):
    if not shutil.which("gcc"):
        raise MachineError("missing tool gcc (Debian package gcc)")
    done = subprocess.run(["gcc", *flags, "-o", out, source], capture_output=True, text=True)
    if done.returncode:
        raise MachineError(f"cannot compile {source}: {done.stderr.splitlines()[0]}")
    return out


def plain_module(module, out_dir):
    """A copy of MODULE in OUT_DIR as insmod takes it: unpacked, without its signature."""
    copy = Path(out_dir) / _module_name(module)
    copy.write_bytes(_unsigned(module))
    return copy


def _unsigned(module):
    """The bytes of a module without its signature: checking it takes most of the time of loading."""
    data = _module_bytes(Path(module))
    if not data.endswith(SIGNATURE_END):
        return data
    length, = struct.unpack(">I", data[-len(SIGNATURE_END) - 4:-len(SIGNATURE_END)])
    return data[:-len(SIGNATURE_END) - 12 - length]
