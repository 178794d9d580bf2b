"""The short set: what `make bench` runs and bench/baseline holds. One row per result."""

from .setup import TOP

BASELINE = TOP / "bench/baseline"
RESULTS = TOP / "build/bench/short"

# name: words for bench/run
SHORT = {
    "exit-cost-1": "exit-cost --levels 1 --trace nested.cpuid",
    "exit-cost-2": "exit-cost --levels 2 --items guest,nested,vmx --trace guest.cpuid-answered",
    "exit-cost-3": "exit-cost --levels 3 --items guest",
    "exit-cost-ivy-bridge": "exit-cost --levels 1 --cpu corei7_ivy_bridge_3770k --items guest,nested,vmx",
    "exit-cost-smp": "exit-cost --levels 1 --smp 2 --items smp,x2apic",
    "linux-boot-2": "linux-boot --levels 2 --smp 2 --reference",
    "invept-storm": "invept-storm --levels 2 --smp 2",
    "grub-keyboard-2": "grub-keyboard --levels 2",
}


def baseline_form(result):
    """What is kept of a result: what is compared, and not what differs from run to run."""
    kept = dict(result, runs=[dict(run, wall_s=0, last_lines=[], metrics={
        name: {k: v for k, v in metric.items() if k != "samples"}
        for name, metric in run["metrics"].items() if metric["exact"]})
        for run in result["runs"][:1]])
    return kept
