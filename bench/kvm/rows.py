"""Boots of a guest hypervisor, one for each row of a table: what kvm/full and xen/full are made of.

A row is: CPUs, millions of ticks per emulated second, words after GUEST=kvm or xen, more arguments for bench/boot.
"""

import argparse
import json
import re
import subprocess
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
LINUX, LINUX_BARE = "linux", "linux-bare"  # the latter without Strata: what L2's kernel warns of there is not Strata's doing
NUMBER = re.compile(r"^<\d+>\[[ .\d]+\]|0x[0-9a-f]+|\b[0-9a-f]*\d[0-9a-f]*\b", re.I)


def run(name, row, args):
    """Whether the row succeeded; says it in one line."""
    cpus, million, words, more = row
    out = args.out / name.replace("=", "-")
    command = ["bench/boot", "--levels", str(args.levels), "--smp", str(cpus), "--ips", f"{million}000000",
               "--guest", f"{args.guest} {words}".strip(), "--out", out, "--limit", str(args.limit), *more]
    started = time.monotonic()
    done = subprocess.run(command, cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace")
    seconds = time.monotonic() - started
    why = [line for line in done.stderr.splitlines() if line.startswith("bench/boot:")]
    if not done.returncode:
        why = [f"L2's kernel, not on the bare machine: {line}" for line in new_warnings(args, out)]
    ratio = boot_ratio(args, out) if name == LINUX and not done.returncode else None
    if ratio and ratio > args.ratio_max:
        why.append(f"more than {args.ratio_max} times as on the bare machine")
    good = not done.returncode and not why
    times = f", {ratio:.3f} times the bare machine's ticks from {args.start}'s start to L3's init" if ratio else ""
    print(f"{args.guest} {name}: {'ok' if good else 'FAILED'} ({seconds:.0f} s{times})", *why, flush=True)
    for image in out.glob("*.img"):
        image.unlink()
    return good


def new_warnings(args, out):
    """What L2's kernel warned of and did not on the bare machine, if that has been run with as many CPUs or more."""
    bare = figures(args.out / LINUX_BARE)
    if not bare or bare["cpus"] < figures(out)["cpus"]:
        return []
    known = {NUMBER.sub("#", line) for line in bare[args.guest]["dmesg"]}
    return [line for line in figures(out)[args.guest]["dmesg"]
            if NUMBER.sub("#", line) not in known and not any(asked in line for asked in args.asked_for)]


def boot_ratio(args, out):
    """Ticks from the program's start to L3's init, as a multiple of the bare machine's; None if that has not been run."""
    bare = figures(args.out / LINUX_BARE)
    return boot_ticks(figures(out), args.start) / boot_ticks(bare, args.start) if bare else None


def boot_ticks(run_figures, start):
    # "L2 Linux: qemu" and "L3 guest: init", one level less on the bare machine
    stages = {s["stage"].partition(" ")[2]: s["ticks"] for s in run_figures["stages"]}
    return stages["guest: init"] - stages[f"Linux: {start}"]


def figures(out):
    """summary.json of a run; None if there is none."""
    path = out / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else None


def main(guest, rows, start, ratio_max, asked_for=()):
    """The program: boots of the hypervisor GUEST, whose stage START begins the nested guest; gives the exit status.

    ASKED_FOR: warnings of L2's kernel that the words of a row bring about, on any machine.
    """
    p = argparse.ArgumentParser(prog=f"bench/{guest.lower()}/full", description=f"{guest} as the guest hypervisor in all its ways.")
    p.add_argument("--levels", type=int, default=1)
    p.add_argument("--limit", type=int, default=3600, metavar="S", help="wall seconds for a row")
    p.add_argument("--out", type=Path, default=TOP / f"build/run-{guest.lower()}")
    p.add_argument("rows", nargs="*", metavar="ROW", help=" ".join(rows))
    args = p.parse_args()
    args.guest, args.start, args.ratio_max, args.asked_for = guest.lower(), start, ratio_max, asked_for
    unknown = [r for r in args.rows if r not in rows]
    if unknown:
        p.error(f"unknown: {' '.join(unknown)}")
    started = time.monotonic()
    results = [run(name, rows[name], args) for name in args.rows or rows]
    print(f"{guest} as the guest hypervisor took {time.monotonic() - started:.0f} s")
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1
