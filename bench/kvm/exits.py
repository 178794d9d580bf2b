"""Compares what KVM counts of the nested guest's exits with what Strata passed on to it.

Owns the names of exit reasons (Strata's, from core/lib/vmx.h; the kernel's, as perf prints them) and
the differences between Strata's counter reports.
"""

import re
from pathlib import Path

VMX_HEADER = Path(__file__).resolve().parents[2] / "core/lib/vmx.h"
REFLECTED = "reflect."
FROM_KVM, FROM_NESTED = "exit.l2.", "exit.l3."
# Where the kernel's name (asm/vmx.h) is not Strata's in capitals.
KERNEL_NAMES = {"IO_INSTRUCTION": "io", "MSR_READ": "rdmsr", "MSR_WRITE": "wrmsr", "DR_ACCESS": "mov_dr",
                "PAUSE_INSTRUCTION": "pause", "MWAIT_INSTRUCTION": "mwait", "MONITOR_INSTRUCTION": "monitor",
                "MONITOR_TRAP_FLAG": "monitor_trap", "EOI_INDUCED": "virtualized_eoi", "INVALID_STATE": "entry_guest_state",
                "MSR_LOAD_FAIL": "entry_msr_load", "MCE_DURING_VMENTRY": "entry_machine_check"}


def reason_names():
    """{number: name} from the one table of exit reasons."""
    table = VMX_HEADER.read_text().partition("#define EXIT_REASONS(X)")[2].partition("// clang-format on")[0]
    return {int(number): name for name, number in re.findall(r"X\((\w+), (\d+)\)", table)}


def name_of(word):
    """Strata's name of the reason that the kernel gives by number (its histogram) or by name (perf)."""
    if word.isdigit():
        return reason_names().get(int(word), word)
    return KERNEL_NAMES.get(word, word.lower())


def between(reports, before, after):
    """{counter: count} of L1 between the markers BEFORE and AFTER; None if one is missing."""
    at = {r.get("marker"): r.get("counters", {}) for r in reports if r.get("level") == 1}
    if before not in at or after not in at:
        return None
    return {name: count - at[before].get(name, 0) for name, count in at[after].items()}


def reflected(reports, before, after):
    """{reason: count} that L1 passed on between two markers; None if one is missing."""
    return having(between(reports, before, after), REFLECTED)


def having(counters, prefix):
    """Of COUNTERS those that begin with PREFIX, without it, and not 0."""
    if counters is None:
        return None
    return {n[len(prefix):]: count for n, count in counters.items() if n.startswith(prefix) and count}


def compare(by_kvm, by_strata):
    """Rows (name, KVM's count, Strata's count or None), largest first."""
    rows = [(name, by_kvm.get(name, 0), None if by_strata is None else by_strata.get(name, 0))
            for name in set(by_kvm) | set(by_strata or {})]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def per_cpuid(fewer, more, cpuids):
    """What CPUIDS more CPUIDs of the nested guest cost in exits, from the counters of two runs that differ in their number.

    Gives (exits of the nested guest for CPUID, entries by KVM that answer them, other exits of
    KVM), each divided by CPUIDS. Left out: exits of the nested guest for interrupts, with their entries; CPUIDs of
    KVM itself, with which it empties the L1 data cache after a timer tick of its own.
    """
    extra = {name: more[name] - fewer.get(name, 0) for name in more}
    nested, kvm = having(extra, FROM_NESTED), having(extra, FROM_KVM)
    entries = kvm.pop("vmresume", 0) + kvm.pop("vmlaunch", 0)
    kvm.pop("cpuid", None)
    taken = nested.pop("cpuid", 0)
    return taken / cpuids, (entries - sum(nested.values())) / cpuids, sum(kvm.values()) / cpuids
