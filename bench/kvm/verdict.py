"""Whether a run with KVM as the guest hypervisor succeeded, and if not, why: each check gives one line or None."""

from kvm import watch

CPUID_TICKS_MAX = 2000  # a CPUID of the nested guest, through L1 and KVM and back
CPUID_OTHERS_MAX = 0.05  # exits of KVM for each that are not its entry: what differs between two boots of SeaBIOS


# What a scenario must have given; without it, its checks would have nothing to look at.
COUNTERS = {"hist": {"hist"}, "perf": {"hist", "perf"}}


def problem(seen, scenario, smp, l3_smp):
    """Why the run that SEEN watched failed, in one line; None if it did not."""
    checks = (ended(seen, smp), _guests(seen, l3_smp), _complete(seen, scenario), _counts(seen), memory(seen),
              _cpuid(seen))
    return next(filter(None, checks), None)


def ended(seen, smp, program="QEMU"):
    """L2 came to its end; PROGRAM is what ran the nested guests there."""
    if "failed" in seen.guest_stages:
        return f"L2: {seen.guest.get('problem')}"
    if f"{program.lower()}-ended" not in seen.guest_stages:
        return f"{program} did not end"
    if seen.guest.get("cpus") != str(smp):
        return f"{seen.guest.get('cpus')} of {smp} CPUs online in L2"
    if seen.warnings:
        return f"L2's kernel warns: {seen.warnings[0]}"
    if "shutdown" not in seen.guest_stages:
        return "the machine was switched off before L2's init had ended"
    return None


def _complete(seen, scenario):
    for counter in COUNTERS.get(scenario, set()) - set(seen.counted):
        return f"L2 counted no exits ({counter})"
    if seen.levels and not (seen.pages(watch.MARK_BEFORE) and seen.pages(watch.MARK_AFTER)):
        return "L1's counters from before and after the nested guests are missing"
    if seen.levels and scenario == "cpuid" and not list(seen.exits_per_cpuid()):
        return "L1's counters around the runs of CPUID are missing"
    return None


def _counts(seen):
    """The kernel's histogram has every exit; perf all but the last one of each virtual CPU."""
    for name, by_kvm, by_strata in seen.exit_rows("hist"):
        if by_strata not in (None, by_kvm):
            return f"KVM counted {by_kvm} exits {name}, Strata passed on {by_strata}"
    rows = [row for row in seen.exit_rows("perf") if row[2] is not None]
    for name, by_perf, by_strata in rows:
        if by_perf > by_strata:
            return f"perf counted {by_perf} exits {name}, Strata passed on {by_strata}"
    missing = sum(by_strata - by_perf for _, by_perf, by_strata in rows)
    last = int(seen.l3.get("l3cpus", 0)) * seen.l3_stages.count("init")
    if missing > last:
        return f"perf counted {missing} exits less than Strata passed on; only {last} were the last of a virtual CPU"
    return None


def memory(seen):
    """What L1 took for the nested guests it has back, or keeps where it finds it."""
    before, after = seen.pages(watch.MARK_BEFORE), seen.pages(watch.MARK_AFTER)
    if before and after and sum(before.values()) != sum(after.values()):
        return f"L1 lost {sum(before.values()) - sum(after.values())} pages while nested guests ran"
    return None


def _cpuid(seen):
    cost = list(seen.exits_per_cpuid())
    if seen.levels != 1 or not cost or seen.machine != "bochs":  # on KVM other things cost
        return None
    slowest = max(run["median"] for run in seen.runs)
    if slowest > CPUID_TICKS_MAX:
        return f"a CPUID of the nested guest took {slowest} ticks, {CPUID_TICKS_MAX} are allowed"
    for taken, entries, other in cost:
        if (taken, entries) != (1, 1) or other > CPUID_OTHERS_MAX:
            return f"a CPUID of the nested guest took {taken:g} + {entries:g} exits to L1, and {other:g} others"
    return None


def _guests(seen, l3_smp):
    """The nested guests ran as they should, and ended."""
    why = _guests_failed(seen, l3_smp)
    return f"{why}; QEMU said: {seen.qemu_said}" if why and seen.qemu_said else why


def _guests_failed(seen, l3_smp):
    if "good" in seen.guest:
        return None if seen.guest["good"] == seen.guest["short"] else (
            f"{seen.guest['good']} of {seen.guest['short']} short nested guests ended as they should")
    if seen.inner:
        return _inner(seen.inner)
    return None if seen.runs else boots(seen, l3_smp)


def boots(seen, l3_smp, program="QEMU"):
    """The nested Linux booted and was switched off each time, and PROGRAM said so."""
    count = int(seen.guest.get("boots", 1))
    if seen.l3_stages.count("init") != count:
        return f"the nested guest's init ran {seen.l3_stages.count('init')} times of {count}"
    if seen.l3_cpus != {str(l3_smp)}:
        return f"{'/'.join(seen.l3_cpus)} of {l3_smp} CPUs online in the nested guest"
    if seen.l3_stages.count("shutdown") != count or seen.guest.get(program.lower()) != "0":
        return f"the nested guest did not shut down ({program}'s status {seen.guest.get(program.lower())})"
    return None


def _inner(inner):
    """The nested guest is L2's system again: it ran guests of its own."""
    if inner.errors:
        return inner.errors[0]
    if inner.warnings:
        return f"the nested guest's kernel warns: {inner.warnings[0]}"
    cpus = inner.guest.get("cpus")
    why = ended(inner, cpus) or _guests(inner, cpus)
    return f"in the nested guest: {why}" if why else None
