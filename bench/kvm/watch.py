"""What L2 and its nested guest say when KVM is the guest hypervisor, and whether that is success.

Adds to machine/watch.py's protocol: "strata-l3: key=value ..." is the nested guest's word with
L2's time, "strata-dmesg: <priority>..." a warning of L2's kernel.
"""

import re

from kvm import exits
from machine.watch import Watch

HISTOGRAM_LINE = re.compile(r"strata-hist: reason=(\d+) count=(\d+)")
PASSED_ON = "l3| "  # what else the nested guest or QEMU said; its guest may speak as L2 does
L3_LINE = re.compile(r"strata-l3: (.*)")
DMESG_LINE = re.compile(r"strata-dmesg: (<[0-9]+>.*)")
RUNS_SHOWN = 20
KVM_BEGINS = "strata: KVM begins"  # kvm-init says so in the kernel's log


class KvmWatch(Watch):
    """l3       the nested guest's words, newest value of each
    l3_stages   its stages, in order
    runs        what the nested test kernels reported, in order
    dmesg       L2's kernel messages of priority warning and above, from before KVM was loaded
    warnings    the same, since
    histogram   {exit reason: count} of the nested guest's exits, as KVM counted them
    """

    def __init__(self, levels, progress=None):
        super().__init__(levels, progress)
        self.l3, self.l3_stages, self.runs = {}, [], []
        self.dmesg, self.warnings, self._kvm_begun = [], [], False
        self.histogram, self.l3_cpus = {}, set()
        self._nested = f"L{levels + 2} guest"

    def line(self, text):
        found = L3_LINE.search(text)
        if found:
            self._l3_line(found.group(1))
            return
        found = DMESG_LINE.search(text)
        if found:
            self._dmesg_line(found.group(1))
            return
        found = HISTOGRAM_LINE.search(text)
        if found:
            self.histogram[int(found.group(1))] = int(found.group(2))
            return
        if not text.startswith(PASSED_ON):
            super().line(text)

    def _l3_line(self, text):
        words = dict(w.split("=", 1) for w in text.split() if "=" in w)
        ticks = words.pop("tsc", None)
        self.l3.update(words)
        if "l3cpus" in words:
            self.l3_cpus.add(words["l3cpus"])
        if "cpuids" in words:
            self.runs.append({k: int(v) for k, v in words.items() if v.isdigit()})
        elif "stage" in words:
            self.l3_stages.append(words["stage"])
            self.stage(f"{self._nested}: {words['stage']}", int(ticks) if ticks else None)

    def _dmesg_line(self, message):
        if KVM_BEGINS in message:
            self._kvm_begun = True
        else:
            (self.warnings if self._kvm_begun else self.dmesg).append(message)

    def problem(self, smp, l3_smp):
        """Why KVM's run failed, in one line; None if it did not."""
        if "failed" in self.guest_stages:
            return f"L2: {self.guest.get('problem')}"
        if "qemu-ended" not in self.guest_stages:
            return "QEMU did not end"
        if self.guest.get("cpus") != str(smp):
            return f"{self.guest.get('cpus')} of {smp} CPUs online in L2"
        if self.warnings:
            return f"L2's kernel warns: {self.warnings[0]}"
        if "shutdown" not in self.guest_stages:
            return "the machine was switched off before L2's init had ended"
        if self.exits_differ():
            name, by_kvm, by_strata = self.exits_differ()[0]
            return f"KVM counted {by_kvm} exits {name}, Strata passed on {by_strata}"
        if "good" in self.guest:
            return None if self.guest["good"] == self.guest["short"] else (
                f"{self.guest['good']} of {self.guest['short']} short nested guests ended as they should")
        if self.runs:
            return None
        return self._linux_problem(l3_smp, int(self.guest.get("boots", 1)))

    def _linux_problem(self, l3_smp, boots):
        """All the nested Linuxes had all their CPUs, and ended."""
        if self.l3_stages.count("init") != boots:
            return f"the nested guest's init ran {self.l3_stages.count('init')} times of {boots}"
        if self.l3_cpus != {str(l3_smp)}:
            return f"{'/'.join(self.l3_cpus)} of {l3_smp} CPUs online in the nested guest"
        if "problem" in self.l3:
            return f"the nested guest: {self.l3['problem']}"
        if self.l3_stages.count("shutdown") != boots or self.guest.get("qemu") != "0":
            return f"the nested guest did not shut down (QEMU's status {self.guest.get('qemu')})"
        return None

    def exit_rows(self):
        """KVM's count of each exit beside Strata's; empty if the scenario does not count."""
        if not self.histogram:
            return []
        return exits.compare(self.histogram, exits.reflected(self.reports, 1, 2))

    def exits_differ(self):
        return [row for row in self.exit_rows() if row[2] is not None and row[1] != row[2]]

    def table(self):
        """The lines that KVM's run adds to the table."""
        if "l3cpus" in self.l3:
            yield f"CPUs online in the nested guest: {self.l3['l3cpus']}"
        for run in self.runs[:RUNS_SHOWN]:
            yield (f"CPUID in the nested guest: {run['least']:,} ticks (least), "
                   f"{run['mean']:,} (mean of {run['cpuids']:,})")
        for name, by_kvm, by_strata in self.exit_rows():
            beside = "" if by_strata is None else f"{by_strata:>16,} passed on by Strata"
            yield f"  {name:<24}{by_kvm:>12,} counted by KVM{beside}"
        for message in self.warnings:
            yield f"L2's kernel: {message}"

    def summary(self):
        rows = [{"reason": name, "kvm": by_kvm, "strata": by_strata}
                for name, by_kvm, by_strata in self.exit_rows()]
        return {"exits": rows, "l3": self.l3, "runs": self.runs, "dmesg": self.dmesg,
                "warnings": self.warnings}
