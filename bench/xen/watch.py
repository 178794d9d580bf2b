"""What Xen, dom0 and the nested guest say when Xen is the guest hypervisor.

dom0 and the nested guest speak as KVM's L2 and its guest do (kvm/watch.py); Xen's own lines begin with "(XEN)".
"""

import re

from kvm import exits
from kvm.watch import MARK_AFTER, MARK_BEFORE, KvmWatch
from machine.watch import STRATA_JSON, STRATA_LINE

XEN_LINE = re.compile(r"\(XEN\) (.*)")
XL_ERROR = re.compile(r"libxl: error: (.*)")
PANIC = re.compile(r"Panic on CPU|FATAL TRAP|Xen BUG at|Assertion .* failed")


class XenWatch(KvmWatch):
    """xen      Xen's own lines, in order
    complaints  those of them from while nested guests ran: on a good run it has nothing to say then
    xl_said     xl's first error
    """

    def __init__(self, levels, progress=None):
        super().__init__(levels, progress)
        self.xen, self.complaints = [], []
        self.xl_said = None

    def line(self, text):
        found = XEN_LINE.search(text)
        if found and not STRATA_LINE.search(text) and not STRATA_JSON.search(text):  # a line can begin within Xen's
            self._xen_line(found.group(1))
        else:
            super().line(text)

    def _passed_on(self, text):
        error = XL_ERROR.search(text)
        if error and not self.xl_said:
            self.xl_said = error.group(1)

    def _xen_line(self, text):
        self.xen.append(text)
        if PANIC.search(text):
            self._fatal(f"Xen: {text}")
        elif self.guest.get("stage") == "xl":
            self.complaints.append(text)

    def reflected(self):
        """{reason: count} of the nested guests' exits that Strata passed on to Xen; None without a Strata."""
        return exits.reflected(self.reports, MARK_BEFORE, MARK_AFTER)

    def table(self):
        yield from super().table()
        for reason, count in sorted((self.reflected() or {}).items(), key=lambda row: (-row[1], row[0])):
            yield f"  {reason:<24}{count:>12,} passed on to Xen by Strata"
        for text in self.complaints:
            yield f"Xen: {text}"

    def summary(self):
        return {"reflected": self.reflected(), "l3": self.l3, "dmesg": self.dmesg, "warnings": self.warnings,
                "xen": self.xen, "complaints": self.complaints}
