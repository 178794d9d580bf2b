"""Compares KVM's own count of the nested guest's exits, by reason, with what Strata passed on to it."""

import re
from pathlib import Path

VMX_HEADER = Path(__file__).resolve().parents[2] / "core/vmx.h"
REFLECTED = "reflect."


def reason_names():
    """{number: name} from the one table of exit reasons."""
    table = VMX_HEADER.read_text().partition("#define EXIT_REASONS(X)")[2].partition("// clang-format on")[0]
    return {int(number): name for name, number in re.findall(r"X\((\w+), (\d+)\)", table)}


def reflected(reports, before, after):
    """{name: count} that L1 passed on between the markers BEFORE and AFTER; None if one is missing."""
    at = {r.get("marker"): r.get("counters", {}) for r in reports if r.get("level") == 1}
    if before not in at or after not in at:
        return None
    names = {n for n in at[after] if n.startswith(REFLECTED)}
    found = {n[len(REFLECTED):]: at[after][n] - at[before].get(n, 0) for n in names}
    return {name: count for name, count in found.items() if count}


def compare(by_kvm, by_strata):
    """Rows (name, KVM's count, Strata's count or None), largest first."""
    names = reason_names()
    kvm = {}
    for number, count in by_kvm.items():
        name = names.get(number, str(number))
        kvm[name] = kvm.get(name, 0) + count
    rows = [(name, kvm.get(name, 0), None if by_strata is None else by_strata.get(name, 0))
            for name in set(kvm) | set(by_strata or {})]
    return sorted(rows, key=lambda row: (-row[1], row[0]))
