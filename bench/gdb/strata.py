"""gdb's commands for Strata: who runs (`strata level`), vmcs12 (`strata vmcs12`), and what an address means to whom (`strata walk`).

They look from outside, so they work wherever the CPU stopped: in Strata, in the guest hypervisor, in a nested guest. Memory is
seen as the Strata nearest the machine sees it (bench/machine/gdbserver.py). `thread N` chooses CPU N - 1.
"""

import struct

import gdb

PRESENT, LARGE = 1, 1 << 7
RWX, ADDRESS = 7, 0x000ffffffffff000
CR0_PG, CR4_PAE, CR4_LA57, EFER_LMA = 1 << 31, 1 << 5, 1 << 12, 1 << 10
VMCS_GUEST_CR0, VMCS_GUEST_CR3, VMCS_GUEST_CR4, VMCS_GUEST_EFER = 0x6800, 0x6802, 0x6804, 0x2806
VMCS_GUEST_CS_AR, VMCS_GUEST_CS_BASE, CS_LONG = 0x4816, 0x6808, 1 << 13
VMCS_GUEST_RIP, VMCS_EXIT_REASON, VMCS_HOST_RIP = 0x681e, 0x4402, 0x6c16
MEMORY_TYPES = {0: "UC", 1: "WC", 4: "WT", 5: "WP", 6: "WB"}
# Where Bochs keeps the fields in a VMCS region: 16 types (width, kind) after 16 bytes, of so many 4-byte fields each.
REGION_START = 16
REGION_LAYOUTS = {"2.7": [0x40] * 16, "3": [0x20] * 4 + [0x54] * 4 + [0x30] * 8}


def value(text):
    return int(gdb.parse_and_eval(text))


def memory(address, size):
    return bytes(gdb.selected_inferior().read_memory(address, size))


def quad(address):
    return struct.unpack("<Q", memory(address, 8))[0]


def monitor(command):
    return gdb.execute(f"monitor {command}", to_string=True)


class Region:
    """Fields of a hardware VMCS, read from its region: Bochs keeps none of them elsewhere."""

    layout = None

    def __init__(self, address):
        self._data = memory(address, 4096)
        if not Region.layout:
            Region.layout = self._find_layout()

    def _find_layout(self):
        """The one by which HOST_RIP is where exits lead."""
        wanted = value("(unsigned long)&vmexit_entry")
        for layout in REGION_LAYOUTS.values():
            if self._at(VMCS_HOST_RIP, layout, 8) == wanted:
                return layout
        raise gdb.GdbError("this Bochs lays VMCS regions out in a way that is not known here")

    def _at(self, encoding, layout, size):
        kind = (encoding >> 13 & 3) << 2 | (encoding >> 10 & 3)
        start = REGION_START + 4 * (sum(layout[:kind]) + (encoding & 0x3ff))
        return int.from_bytes(self._data[start:start + size], "little")

    def read(self, encoding):
        width = encoding >> 13 & 3
        found = self._at(encoding, Region.layout, 8 if width in (1, 3) else 4)
        if width == 2 and encoding & 0xc00 == 0x800 and 0x4814 <= encoding <= 0x4822:
            return (found >> 8 | found << 24) & 0xffffffff  # access rights are kept turned by 8 bits
        return found & 0xffff if width == 0 else found


class Cpu:
    """struct cpu of the thread that is selected, and what it executes."""

    def __init__(self, number=None):
        thread = gdb.selected_thread()
        self.number = (thread.num if thread else 1) - 1 if number is None else number
        for i in range(value("cpu_count")):
            if value(f"cpus[{i}]->apic_id") == self.number:
                self.at = f"cpus[{i}]"
                self.index = i
                break
        else:
            raise gdb.GdbError(f"Strata has no CPU with APIC id {self.number} yet")
        self.in_nested = bool(value(f"{self.at}->in_nested"))
        self.rip, self.cr3 = value("(unsigned long)$rip"), self._creg("CR3")
        self.base, self.cr3_strata = (int(word, 16) for word in monitor("base").split())
        self.in_strata = self.cr3 == self.cr3_strata

    @staticmethod
    def _creg(name):
        for line in monitor("creg").splitlines():
            if line.startswith(f"{name}="):
                return int(line.split("=")[1].split(":")[0].split()[0].replace("_", ""), 16)
        raise gdb.GdbError(f"Bochs says no {name}")

    @property
    def vmcs(self):
        if not value(f"{self.at}->current"):
            raise gdb.GdbError(f"CPU {self.number} has no VMCS yet")
        return Region(value(f"{self.at}->current->region.v"))

    def registers(self):
        """CR0, CR3, CR4 and EFER of the guest that runs or has exited."""
        if not self.in_strata:
            return [self._creg(name) for name in ("CR0", "CR3", "CR4", "EFER")]
        region = self.vmcs
        return [region.read(field) for field in (VMCS_GUEST_CR0, VMCS_GUEST_CR3, VMCS_GUEST_CR4, VMCS_GUEST_EFER)]

    def describe(self):
        if not value(f"{self.at}->current"):
            return "Strata (L1), before VMX"
        guest = "the nested guest (L3 or above)" if self.in_nested else "the guest hypervisor (L2)"
        if self.in_strata:
            if not value(f"{self.at}->last_exit_count"):
                return f"Strata (L1{self.line()}), before its first exit"
            reason = self.vmcs.read(VMCS_EXIT_REASON)
            said = str(gdb.parse_and_eval(f"(enum exit_reason){reason & 0xffff}")).removeprefix("REASON_")
            return f"Strata (L1{self.line()}); below it {guest}, last exit of {self.current}: {reason & 0xffff} ({said})"
        inside = value("(unsigned long)image_start") <= self.rip < value("(unsigned long)image_end")
        return f"{guest}, under {self.current}" + (": a Strata, too" if inside else "")

    def line(self):
        where = gdb.find_pc_line(self.rip)
        return f", {where.symtab.filename}:{where.line}" if where.symtab else ""

    def next_instruction(self):
        """Linear address of the guest's next instruction."""
        if not self.in_strata:
            return self.rip  # Bochs's own, without the base of CS
        region = self.vmcs
        long_mode = region.read(VMCS_GUEST_EFER) & EFER_LMA and region.read(VMCS_GUEST_CS_AR) & CS_LONG
        return region.read(VMCS_GUEST_RIP) + (0 if long_mode else region.read(VMCS_GUEST_CS_BASE))

    @property
    def current(self):
        return "vmcs01" if value(f"{self.at}->current == &{self.at}->vmcs01") else "vmcs02"

    @property
    def slot(self):
        """C expression of the slot of the guest hypervisor's current VMCS."""
        if not value(f"{self.at}->nested") or not value(f"{self.at}->nested->current"):
            raise gdb.GdbError(f"CPU {self.number}: the guest hypervisor has no current VMCS")
        return f"{self.at}->nested->current"


class Walk:
    """One walk of translation tables: a line for each entry, then what was found."""

    def __init__(self, name):
        self.lines, self.target, self.size, self.rights = [name], None, 0, ""

    def tables(self, root, address, levels, translate, present, describe):
        """translate: a table's address as the tables have it, as a machine address (None: nothing there)."""
        table = root
        for level in range(levels, 0, -1):
            index = address >> (12 + 9 * (level - 1)) & 511
            at = translate(table)
            if at is None:
                self.lines.append(f"{level}: table {table:x} not mapped")
                return self
            entry = quad(at + 8 * index)
            self.lines.append(f"{level}: {table:x}[{index}] {entry:016x}")
            if not present(entry):
                self.lines.append("not present")
                return self
            if level == 1 or (level <= 3 and entry & LARGE):
                self.size = 1 << (12 + 9 * (level - 1))
                self.target = (entry & ADDRESS & ~(self.size - 1)) | (address & (self.size - 1))
                self.rights = describe(entry)
                self.lines.append(f"-> {self.target:x}, {self.size >> 10} KiB, {self.rights}")
                return self
            table = entry & ADDRESS
        return self


def ept_walk(name, eptp, address, translate):
    def describe(entry):
        rights = "".join(letter if entry >> i & 1 else "-" for i, letter in enumerate("rwx"))
        return f"{rights} {MEMORY_TYPES.get(entry >> 3 & 7, '??')}"
    return Walk(f"{name} {eptp & ADDRESS:x}").tables(eptp & ADDRESS, address, 4, translate, lambda e: e & RWX, describe)


def guest_walk(cpu, address, translate):
    """Linear to guest-physical, as the guest's own tables say."""
    cr0, cr3, cr4, efer = cpu.registers()
    if not cr0 & CR0_PG:
        walk = Walk("no paging")
        walk.target = address & 0xffffffff
        walk.lines.append(f"-> {walk.target:x}")
        return walk
    if not efer & EFER_LMA:
        return legacy_walk(cr3, cr4, address, translate)

    def describe(entry):
        return ("w" if entry & 2 else "-") + ("u" if entry & 4 else "s") + ("-" if entry >> 63 else "x")
    return Walk(f"CR3 {cr3:x}").tables(cr3 & ADDRESS, address, 5 if cr4 & CR4_LA57 else 4, translate,
                                       lambda e: e & PRESENT, describe)


def legacy_walk(cr3, cr4, address, translate):
    """32-bit and PAE paging: the same walk with other widths."""
    width, bits = (8, 9) if cr4 & CR4_PAE else (4, 10)
    walk = Walk(f"CR3 {cr3:x}, {'PAE' if cr4 & CR4_PAE else '32-bit'}")
    table = cr3 & (0xffffffe0 if cr4 & CR4_PAE else 0xfffff000)
    for level in (3, 2, 1) if cr4 & CR4_PAE else (2, 1):
        shift = 12 + bits * (level - 1)
        index = address >> shift & ((1 << bits) - 1 if level < 3 else 3)
        at = translate(table)
        if at is None:
            walk.lines.append(f"{level}: table {table:x} not mapped")
            return walk
        entry = int.from_bytes(memory(at + width * index, width), "little")
        walk.lines.append(f"{level}: {table:x}[{index}] {entry:x}")
        if not entry & PRESENT:
            walk.lines.append("not present")
            return walk
        if level == 1 or (level == 2 and entry & LARGE):
            walk.size = 1 << shift
            walk.target = (entry & ADDRESS & ~(walk.size - 1)) | (address & (walk.size - 1))
            walk.lines.append(f"-> {walk.target:x}, {walk.size >> 10} KiB")
            return walk
        table = entry & ADDRESS
    return walk


def side_by_side(walks):
    lines = [walk.lines for walk in walks]
    width = [max(map(len, column)) for column in lines]
    for row in range(max(map(len, lines))):
        print("   ".join((column[row] if row < len(column) else "").ljust(w) for column, w in zip(lines, width)).rstrip())


class Strata(gdb.Command):
    """Looks into Strata and what it runs: level, vmcs12, walk."""

    def __init__(self):
        super().__init__("strata", gdb.COMMAND_DATA, prefix=True)


class Level(gdb.Command):
    """strata level: what each CPU executes."""

    def __init__(self):
        super().__init__("strata level", gdb.COMMAND_DATA)

    def invoke(self, _argument, _from_tty):
        chosen = gdb.selected_thread()
        for thread in sorted(gdb.selected_inferior().threads(), key=lambda t: t.num):
            thread.switch()
            try:
                print(f"{'*' if thread == chosen else ' '} CPU {thread.num - 1}: {Cpu().describe()}")
            except gdb.GdbError as error:
                print(f"  {error}")
        chosen.switch()


class Vmcs12(gdb.Command):
    """strata vmcs12 [WORD]: fields of the guest hypervisor's current VMCS (whose names have WORD), and where each is kept."""

    def __init__(self):
        super().__init__("strata vmcs12", gdb.COMMAND_DATA)

    def invoke(self, argument, _from_tty):
        cpu = Cpu()
        slot = f"{cpu.slot}->v"
        region = Region(value(f"{slot}.vmcs02.region.v"))
        print(f"vmcs12 at {value(f'{slot}.region.v'):x} of L2, vmcs02 at {value(f'{slot}.vmcs02.region.v'):x}, "
              f"{'launched' if value(f'{slot}.launched') else 'clear'}")
        fields, made_up = gdb.parse_and_eval("vmcs_fields"), value(f"{slot}.made_up")
        soft, info = value("(int)STORE_SOFT"), value("(int)STORE_INFO")
        infos = 0
        for row in range(fields.type.range()[1] + 1):
            name, store = fields[row]["name"].string(), int(fields[row]["store"])
            where = "soft"
            if store != soft and value(f"machine.hw.offered[{int(fields[row]['cap'])}] && !machine.hw.missing[{row}]"):
                where = "vmcs02"
                if store == info:  # made_up has a bit for each of these, in their order
                    where = "made up" if made_up >> infos & 1 else where
                    infos += 1
            if argument.upper() not in name.upper():
                continue
            encoding = int(fields[row]["encoding"])
            found = region.read(encoding) if where == "vmcs02" else value(f"{slot}.soft[{row}]")
            print(f"  {encoding:04x} {name:<28} {found:16x}  {where}")


class WalkCommand(gdb.Command):
    """strata walk [ADDRESS]: the walks of a linear address of the guest that runs or has exited, side by side.

    Without an address: where the guest's next instruction is.
    Of a nested guest: its own tables, ept12, ept01, and ept02, which must say what ept12 and ept01 together say.
    """

    def __init__(self):
        super().__init__("strata walk", gdb.COMMAND_DATA)

    def invoke(self, argument, _from_tty):
        cpu = Cpu()
        address = (value(argument) if argument else cpu.next_instruction()) & (1 << 64) - 1
        ept01 = value("memory01.ept01.root.v")
        direct = lambda table: table  # noqa: E731  Strata's memory is machine memory

        def by_ept01(gpa1):
            return ept_walk("", ept01, gpa1, direct).target
        root = value(f"{cpu.slot}->root") if cpu.in_nested else 0
        if not root:
            own = guest_walk(cpu, address, by_ept01)
            walks = [own] + ([ept_walk("ept01", ept01, own.target, direct)] if own.target is not None else [])
            side_by_side(walks)
            return
        eptp12, eptp02 = value(f"{cpu.slot}->root->eptp12"), value(f"{cpu.slot}->root->eptp02")

        def by_both(gpa2):
            found = ept_walk("", eptp12, gpa2, by_ept01).target
            return None if found is None else by_ept01(found)
        own = guest_walk(cpu, address, by_both)
        walks = [own]
        if own.target is not None:
            ept12 = ept_walk("ept12", eptp12, own.target, by_ept01)
            walks.append(ept12)
            if ept12.target is not None:
                walks.append(ept_walk("ept01", ept01, ept12.target, direct))
            walks.append(ept_walk("ept02", eptp02, own.target, direct))
        side_by_side(walks)
        if len(walks) == 4:
            said, composed = walks[3].target, walks[2].target
            print("ept02 maps nothing there yet" if said is None else
                  "ept02 agrees" if said == composed else f"ept02 DIFFERS: ept12 and ept01 lead to {composed:x}")


for command in (Strata, Level, Vmcs12, WalkCommand):
    command()
