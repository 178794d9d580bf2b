"""Whether a run with Xen as the guest hypervisor succeeded, and if not, why: each check gives one line or None."""

from kvm import verdict
from kvm.watch import MARK_AFTER, MARK_BEFORE


def problem(seen, smp, l3_smp):
    """Why the run that SEEN watched failed, in one line; None if it did not."""
    checks = (verdict.ended(seen, smp, "xl"), _guests(seen, l3_smp), _xen(seen), _complete(seen), verdict.memory(seen))
    return next(filter(None, checks), None)


def _guests(seen, l3_smp):
    why = verdict.boots(seen, l3_smp, "xl")
    return f"{why}; xl said: {seen.xl_said}" if why and seen.xl_said else why


def _xen(seen):
    return f"Xen says while the nested guest runs: {seen.complaints[0]}" if seen.complaints else None


def _complete(seen):
    """The nested guest ran in VMX, as the exits say that Strata passed on."""
    if not seen.levels:
        return None
    if not (seen.pages(MARK_BEFORE) and seen.pages(MARK_AFTER)):
        return "L1's counters from before and after the nested guests are missing"
    return None if seen.reflected() else "L1 passed no exit of a nested guest on to Xen"
