"""linux-boot and invept-storm: Linux on N Stratas; ticks by stage, exits by phase.

Stages are stamped with the TSC: GRUB's `boot` command, the kernel's first instruction
(machine/hook.py), the guest's init, and its end. Phases of exits are what lies between Strata's
counter reports: "grub" up to the kernel, "kernel" up to init, "user" up to the end. Strata's printing of counters
takes ticks, too: "grub-boot-to-kernel" and "kernel-to-init" are free of it.

With the reference, the same boot without any Strata is measured as well, and the ratio of the ticks: of the whole
(with GRUB loading each Strata through the emulated BIOS), from the entry of Linux's own disk's boot
sector to its shutdown ("linux-alone"), and of the kernel.
"""

import re
import subprocess
import sys

from machine import MachineError, hook, linux, watch
from .result import Run, count_rows, l0_rows, metric
from .setup import TOP

NAME = "linux-boot"
STORM = "invept-storm"
BOOT_SECTOR = re.compile(r"^(\d+)i\[BIOS *\] Booting from 0000:7c00", re.M)
PHASES = {hook.MARKER: "grub", 1: "kernel", 2: "user"}  # which end with these markers
REFERENCED = ("to-init", "to-shutdown", "linux-alone", "kernel-to-init")
STORM_INVEPTS = 1000  # fewer say nothing about the cost of one
STRATA_MIB, LINUX_MIB = 32, 160


def guest(kernel=None, arch="amd64", **_options):
    """What the result says of what runs in the machine."""
    return {"kernel": linux.release(linux.find_kernel(kernel, arch))}


def check(setup):
    needed = LINUX_MIB + setup.levels * STRATA_MIB
    if setup.memory_mib < needed:
        raise MachineError(f"{setup.memory_mib} MiB of memory: {setup.levels} levels and Linux "
                           f"need {needed}")


def storm(setup):
    """The topmost Strata protects its guest's APIC page and invalidates around each access."""
    if setup.levels < 2:
        raise MachineError(f"{STORM} needs a guest hypervisor: at least 2 levels")
    changed = type(setup)(**vars(setup))
    options = dict(setup.level_options)
    options[setup.levels] = " ".join(filter(None, (options.get(setup.levels), "lapic=trap")))
    changed.level_options = options
    return changed


def run(setup, out_dir, progress, reference=False, kernel=None, arch="amd64", words=""):
    one = _boot(setup, out_dir / f"levels-{setup.levels}", progress, kernel, arch, words)
    if not reference or not setup.levels or one.problem:
        return one
    bare = type(setup)(**{**vars(setup), "levels": 0, "level_options": {}})
    other = _boot(bare, out_dir / "bare", progress, kernel, arch, words)
    one.wall_s += other.wall_s
    if other.problem:
        one.problem, one.last_lines = f"bare machine: {other.problem}", other.last_lines
        return one
    for name in REFERENCED:
        ticks, less = one.metrics[name]["value"], other.metrics[name]["value"]
        one.metrics[f"{name}.bare"] = metric(less, "ticks")
        one.metrics[f"{name}.ratio"] = metric(round(ticks / less, 6), "ratio")
    return one


def _boot(setup, out_dir, progress, kernel, arch, words):
    out_dir.mkdir(parents=True, exist_ok=True)
    strata_stat = linux.ARCHES[arch].strata_stat.relative_to(TOP)
    if subprocess.run(["make", "-s", "-C", TOP, strata_stat], stdout=sys.stderr).returncode:
        raise MachineError(f"{strata_stat} cannot be built; {linux.ARCHES[arch].setup} brings what it needs")
    initrd = out_dir / "initrd.gz"
    linux.build_initramfs(initrd, arch=arch)
    program = linux.program(out_dir, linux.find_kernel(kernel, arch), initrd, linux.command_line(setup.emulated_ips, words))
    progress.phase(f"{setup.levels} levels: GRUB")
    seen = watch.Watch(setup.levels, progress)
    verdict = setup.run(setup.disks(out_dir, program, "linux"), out_dir, seen.feed, seen.tick)
    problem = _problem(setup, seen, verdict)
    metrics = _metrics(setup, seen, verdict)
    counters = _counters(seen) + l0_rows(verdict)
    metrics.update(_derived(seen))
    return Run(problem, metrics, counters, verdict.ticks, verdict.wall_s,
               verdict.last_lines() if problem else [])


def _problem(setup, seen, verdict):
    if seen.errors:
        return seen.errors[0]
    if not verdict.ok:
        return f"{verdict.ended}: {verdict.detail}"
    if "shutdown" not in seen.guest_stages:
        return "the guest's init did not reach its end"
    if seen.guest.get("cpus") != str(setup.smp):
        return f"{seen.guest.get('cpus')} of {setup.smp} CPUs online in the guest"
    return None


def _metrics(setup, seen, verdict):
    found = {}
    for stage in seen.stages:
        if stage.ticks is not None:
            level, name = stage.name.split(": ", 1) if ": " in stage.name else ("", stage.name)
            key = {"Linux": f"to-{name}"}.get(level.partition(" ")[2], f"{level}: {name}")
            found[key.replace(" ", "-")] = metric(stage.ticks, "ticks")
    if verdict.ended == "power-off" and verdict.ticks is not None:
        found["total"] = metric(verdict.ticks, "ticks")
    found.update(_phases(seen, {n[len("to-"):]: m["value"] for n, m in found.items() if n.startswith("to-")}))
    handed_over = _handed_over(setup, found, verdict)
    if handed_over and "to-shutdown" in found:
        found["linux-alone"] = metric(found["to-shutdown"]["value"] - handed_over, "ticks")
    found["wall"] = metric(round(verdict.wall_s, 1), "s")
    return found


def _phases(seen, at):
    """The time between the stages, printing counters left out where a stamp is there for it."""
    runs = int(seen.guest["after"], 0) if "after" in seen.guest else None
    spans = {"grub-boot-to-kernel": (at.get("grub-boot"), at.get("kernel")),
             "kernel-to-init": (runs, at.get("init")),
             "init-to-shutdown": (at.get("init"), at.get("shutdown")),
             "grub-boot-to-shutdown": (at.get("grub-boot"), at.get("shutdown"))}
    # Where a run ended early, or GRUB has no clock, what is there.
    return {name: metric(end - begin, "ticks") for name, (begin, end) in spans.items() if None not in (begin, end)}


def _handed_over(setup, found, verdict):
    """When the boot sector of Linux's own disk is entered, or with modules GRUB boots: what is before is loading Stratas."""
    for name, one in found.items():
        if name.startswith(f"L{setup.levels}-Strata:-boots-"):
            return one["value"]
    if setup.boot == "modules":
        return found.get("to-grub-boot", {}).get("value")
    said = verdict.log.read_text(errors="replace") if verdict.log.is_file() else ""
    first = BOOT_SECTOR.search(said)
    return int(first.group(1)) if first and not setup.levels else None


def _counters(seen):
    """Rows by phase: each marker's report less the one before it of the same level."""
    rows, before = [], {}
    for report in seen.reports:
        level, phase = report["level"], PHASES.get(report.get("marker"))
        if phase is None:
            continue
        now, old = report["counters"], before.get(level, {})
        rows += count_rows(phase, level, {n: v - old.get(n, 0) for n, v in now.items()
                                          if v != old.get(n, 0)})
        before[level] = now
    return rows


def _derived(seen):
    """Of the whole run: exits, repairs of ept02, trapped VMREADs and VMWRITEs."""
    last = {r["level"]: r["counters"] for r in seen.reports}
    found = {}
    for level, c in sorted(last.items()):
        exits = sum(n for name, n in c.items() if name.startswith("exit."))
        found[f"exits-to-L{level}"] = metric(exits, "exits")
        if level == 1:
            found["ept02-repairs-L1"] = metric(c.get("ept02.repaired", 0), "count")
            trapped = c.get("vmread.trapped", 0) + c.get("vmwrite.trapped", 0)
            found["vmread-vmwrite-trapped-L1"] = metric(trapped, "count")
        if c.get("invept.guest", 0) >= STORM_INVEPTS:
            found[f"repairs-per-invept-L{level}"] = metric(
                round(c.get("ept02.repaired", 0) / c["invept.guest"], 6), "ratio")
    return found
