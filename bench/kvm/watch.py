"""What L2 and its nested guest say when KVM is the guest hypervisor, and whether that is success.

Adds to machine/watch.py's protocol: "strata-l3: key=value ..." is the nested guest's word with
L2's time, "strata-dmesg: <priority>..." a warning of L2's kernel.
"""

import re

from machine.watch import Watch

L3_LINE = re.compile(r"strata-l3: (.*)")
DMESG_LINE = re.compile(r"strata-dmesg: (<[0-9]+>.*)")
KVM_WARNING = re.compile(r"\b(kvm|vmx|vmcs|vmread|vmwrite|vmptrld|vmclear|invept|invvpid)", re.I)
ANY_OOPS = re.compile(r"WARNING: |BUG: |Oops|Call Trace|stall|lockup|general protection")
# What KVM says on bare Bochs, too.
KNOWN = (re.compile(r"SGX"),)


class KvmWatch(Watch):
    """l3       the nested guest's words, newest value of each
    l3_stages   its stages
    runs        what the nested test kernels reported, in order
    dmesg       L2's kernel messages of priority warning and above
    """

    def __init__(self, levels, progress=None):
        super().__init__(levels, progress)
        self.l3, self.l3_stages, self.runs, self.dmesg = {}, set(), [], []
        self._nested = f"L{levels + 2} guest"

    def line(self, text):
        found = L3_LINE.search(text)
        if found:
            self._l3_line(found.group(1))
            return
        found = DMESG_LINE.search(text)
        if found:
            self.dmesg.append(found.group(1))
            return
        super().line(text)

    def _l3_line(self, text):
        words = dict(w.split("=", 1) for w in text.split() if "=" in w)
        ticks = words.pop("tsc", None)
        self.l3.update(words)
        if "stage" in words:
            self.l3_stages.add(words["stage"])
            self.stage(f"{self._nested}: {words['stage']}", int(ticks) if ticks else None)
        if "cpuids" in words:
            self.runs.append({k: int(v) for k, v in words.items() if v.isdigit()})

    def kvm_warnings(self):
        return [m for m in self.dmesg if (KVM_WARNING.search(m) or ANY_OOPS.search(m))
                and not any(k.search(m) for k in KNOWN)]

    def problem(self, smp, l3_smp, scenario):
        """Why KVM's run failed, in one line; None if it did not."""
        if "failed" in self.guest_stages:
            return f"L2: {self.guest.get('problem')}"
        if "qemu-ended" not in self.guest_stages:
            return "QEMU did not end"
        if self.guest.get("cpus") != str(smp):
            return f"{self.guest.get('cpus')} of {smp} CPUs online in L2"
        if self.kvm_warnings():
            return f"L2's kernel warns: {self.kvm_warnings()[0]}"
        if "shutdown" not in self.guest_stages:
            return "the machine was switched off before L2's init had ended"
        if scenario == "linux":
            return self._linux_problem(l3_smp)
        return None if self.runs else "the nested guest said nothing"

    def _linux_problem(self, l3_smp):
        if "init" not in self.l3_stages:
            return "the nested guest's init did not run"
        if self.l3.get("l3cpus") != str(l3_smp):
            return f"{self.l3.get('l3cpus')} of {l3_smp} CPUs online in the nested guest"
        if "problem" in self.l3:
            return f"the nested guest: {self.l3['problem']}"
        if "shutdown" not in self.l3_stages or self.guest.get("qemu") != "0":
            return f"the nested guest did not shut down (QEMU's status {self.guest.get('qemu')})"
        return None

    def table(self):
        """The lines that KVM's run adds to the table."""
        if "l3cpus" in self.l3:
            yield f"CPUs online in the nested guest: {self.l3['l3cpus']}"
        for run in self.runs:
            yield (f"CPUID in the nested guest: {run['best']:,} ticks (best batch), "
                   f"{run['mean']:,} (mean of {run['cpuids']:,})")
        for message in self.dmesg:
            yield f"L2's kernel: {message}"

    def summary(self):
        return {"l3": self.l3, "runs": self.runs, "dmesg": self.dmesg,
                "kvm_warnings": self.kvm_warnings()}
