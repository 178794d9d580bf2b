"""What L2 and its nested guest say when KVM is the guest hypervisor.

Adds to machine/watch.py's protocol: "strata-l3: key=value ..." is the nested guest's word with
L2's time, "strata-dmesg: <priority>..." a warning of L2's kernel, "strata-count:" a count of exits.
Where the nested guest is a system that speaks so itself (scenario nested), its lines are the inner
ones. verdict.py says whether that is success.
"""

import re

from kvm import exits
from machine.watch import Watch

COUNT_LINE = re.compile(r"strata-count: counter=(\w+) reason=(\w+) count=(\d+)")
PASSED_ON = "l3| "  # what else the nested guest or QEMU said; its guest may speak as L2 does
L3_LINE = re.compile(r"strata-l3: (.*)")
DMESG_LINE = re.compile(r"strata-dmesg: (<[0-9]+>.*)")
# QEMU's words for what KVM could not do; it stays there, with the nested guest stopped.
KVM_GAVE_UP = re.compile(r"KVM: entry failed|KVM internal error|kvm run failed|KVM: unknown exit")
RUNS_SHOWN = 20
KVM_BEGINS = "strata: KVM begins"  # kvm-init says so in the kernel's log
MARK_BEFORE, MARK_AFTER = 1, 2  # around the nested guests
MARK_CPUID = 10  # of the first run of scenario cpuid; then one before and one after each


class KvmWatch(Watch):
    """l3       the nested guest's words, newest value of each
    l3_stages   its stages, in order
    runs        what the nested test kernels reported, in order
    dmesg       L2's kernel messages of priority warning and above, from before KVM was loaded
    warnings    the same, since
    counted     {counter: {exit reason: count}}: exits of the nested guest, as L2's kernel ("hist") or perf ("perf")
                counted them
    inner       what the nested guest's own words give, where it is a system that runs one: a KvmWatch
    """

    def __init__(self, levels, progress=None):
        super().__init__(levels, progress)
        self.levels = levels
        self.machine = "bochs"  # below it all; or "kvm"
        self.l3, self.l3_stages, self.runs = {}, [], []
        self.dmesg, self.warnings, self._kvm_begun = [], [], False
        self.counted, self.l3_cpus = {}, set()
        self._nested = f"L{levels + 2} guest"
        self.inner = None
        self.qemu_said = None  # its last complaint

    def line(self, text):
        if text.startswith(PASSED_ON):
            self._passed_on(text.removeprefix(PASSED_ON))
            return
        for pattern, take in ((L3_LINE, self._l3_line), (DMESG_LINE, self._dmesg_line),
                              (COUNT_LINE, self._count_line)):
            found = pattern.search(text)
            if found:
                take(*found.groups())
                return
        super().line(text)

    def _passed_on(self, text):
        if KVM_GAVE_UP.search(text):
            self._fatal(text)
        if text.startswith("qemu-system"):
            self.qemu_said = text
        if not self.inner and text.startswith("strata-guest:"):
            self.inner = KvmWatch(self.levels + 1, self._progress)
            self.inner._started = self._started
        if self.inner:
            self.inner.line(text)

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

    def _count_line(self, counter, reason, count):
        name = exits.name_of(reason)
        counts = self.counted.setdefault(counter, {})
        counts[name] = counts.get(name, 0) + int(count)

    def exit_rows(self, counter):
        """L2's count of each exit beside Strata's; empty if the scenario does not count so."""
        if counter not in self.counted:
            return []
        return exits.compare(self.counted[counter], exits.reflected(self.reports, MARK_BEFORE, MARK_AFTER))

    def pages(self, marker):
        """{"free": pages of L1, "kept": pages that it uses as a cache} at its last report with MARKER; None without one."""
        found = [r.get("pages") for r in self.reports if (r.get("level"), r.get("marker")) == (1, marker)]
        return found[-1] if found else None

    def exits_per_cpuid(self):
        """exits.per_cpuid between each two neighbouring runs of scenario cpuid."""
        for i in range(len(self.runs) - 1):
            marks = [MARK_CPUID + 2 * (i + k) for k in (0, 1)]
            fewer, more = (exits.between(self.reports, mark, mark + 1) for mark in marks)
            if fewer is not None and more is not None:
                yield exits.per_cpuid(fewer, more, self.runs[i + 1]["cpuids"] - self.runs[i]["cpuids"])

    def table(self):
        """The lines that KVM's run adds to the table."""
        if "l3cpus" in self.l3:
            yield f"CPUs online in the nested guest: {self.l3['l3cpus']}"
        for run in self.runs[:RUNS_SHOWN]:
            yield (f"CPUID in the nested guest: {run['median']:,} ticks (median), {run['least']:,} (least), "
                   f"{run['mean']:,} (mean of {run['cpuids']:,})")
        for taken, entries, other in self.exits_per_cpuid():
            yield f"exits to L1 for each: {taken:g} of the nested guest, {entries:g} entries, {other:g} others"
        for counter in self.counted:
            for name, by_kvm, by_strata in self.exit_rows(counter):
                beside = "" if by_strata is None else f"{by_strata:>16,} passed on by Strata"
                yield f"  {name:<24}{by_kvm:>12,} counted by L2 ({counter}){beside}"
        before, after = self.pages(MARK_BEFORE), self.pages(MARK_AFTER)
        if before and after:
            yield (f"L1's pages before the nested guests: {before['free']:,} free, {before['kept']:,} kept; "
                   f"after: {after['free']:,} free, {after['kept']:,} kept")
        if self.inner:
            yield from self.inner.table()
        for message in self.warnings:
            yield f"L2's kernel: {message}"

    def summary(self):
        rows = {counter: [{"reason": name, "kvm": by_kvm, "strata": by_strata}
                          for name, by_kvm, by_strata in self.exit_rows(counter)]
                for counter in self.counted}
        return {"exits": rows, "l3": self.l3, "runs": self.runs, "dmesg": self.dmesg,
                "warnings": self.warnings, "exits_per_cpuid": list(self.exits_per_cpuid()),
                "inner_stages": [{"stage": s.name, "ticks": s.ticks} for s in self.inner.stages] if self.inner else [],
                "inner": self.inner.summary() if self.inner else None}
