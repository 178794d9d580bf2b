"""Counts turned into cycles of a real processor: estimates, by a file that says where each constant is from.

bench/cost-models/published.json holds published figures; bench/calibrate writes such a file from what
bench/guests/calibrate.c has measured on a machine. A constant is a range, and so is what comes out.
"""

import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from .result import ResultError
from .setup import TOP

SCHEMA = "strata-cost-model/1"
PUBLISHED = TOP / "bench/cost-models/published.json"
CONSTANTS = ("round_trip", "entry_checks", "vmread", "vmwrite", "vmptrld", "vmclear", "invept", "invvpid",
             "instruction")
BASES = ("quoted", "derived", "assumed", "measured")
# What the trace counts by name, and the constants for it. A VMRESUME or VMLAUNCH is part of the round trip; a VMLAUNCH
# comes after a VMCLEAR, and the processor knows nothing of what it has checked before.
COUNTED = {"vmread": "vmread", "vmwrite": "vmwrite", "vmptrld": "vmptrld", "vmclear": "vmclear", "invept": "invept",
           "invvpid": "invvpid", "vmlaunch": "entry_checks", "vmresume": None}
TRACED = re.compile(r"^(?P<item>.+)\.L(?P<level>\d+)\.(?P<what>[a-z]+)$")


@dataclass
class Model:
    name: str
    unit: str
    constants: dict

    def cycles(self, counts):
        """(low, high) of {constant: count}."""
        return tuple(sum(n * self.constants[name][end] for name, n in counts.items()) for end in ("low", "high"))


def load(path):
    """The model in a file; a ResultError for one that is not complete or does not say its sources."""
    try:
        made = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: cannot be read as a cost model: {error}") from None
    if not isinstance(made, dict) or made.get("schema") != SCHEMA:
        raise ResultError(f"{path}: not a cost model of the form {SCHEMA!r}")
    constants = made.get("constants", {})
    for name in CONSTANTS:
        one = constants.get(name)
        if not isinstance(one, dict):
            raise ResultError(f"{path}: no constant {name}")
        numbers = [one.get("low"), one.get("high")]
        if not all(isinstance(n, (int, float)) and n >= 0 for n in numbers) or numbers[0] > numbers[1]:
            raise ResultError(f"{path}: {name} is not a range: {numbers[0]!r} to {numbers[1]!r}")
        if one.get("basis") not in BASES or not one.get("source"):
            raise ResultError(f"{path}: {name} does not say where it is from (basis, source)")
    unknown = sorted(set(constants) - set(CONSTANTS))
    if unknown:
        raise ResultError(f"{path}: unknown constant {unknown[0]}")
    return Model(str(made.get("name", path)), str(made.get("unit", "cycles")), constants)


def traced(result, model):
    """[(item, {constant: count}, low, high)] of one round trip, for the items whose instructions were counted.

    Every level's instructions run on the processor; of the transitions only those of L1 do.
    """
    metrics = {n: m["value"] for n, m in result["runs"][0]["metrics"].items()}
    items = {}
    for name, value in metrics.items():
        found = TRACED.match(name)
        if found and found["what"] in (*COUNTED, "instructions"):
            levels = items.setdefault(found["item"], {}).setdefault(int(found["level"]), {})
            levels[found["what"]] = value
    rows = []
    for item, levels in items.items():
        exits = metrics.get(f"{item}.exits-to-L1")
        if exits is None:
            continue
        counts = {"round_trip": exits}
        for level, own in levels.items():
            for name, constant in COUNTED.items():
                # Above L1 what exits is one of the round trips already: all but the VMREADs and VMWRITEs of
                # a shadow VMCS. (One that does exit is counted twice by no more than its own cost.)
                if constant and name in own and (level == 1 or name in ("vmread", "vmwrite")):
                    counts[constant] = counts.get(constant, 0) + own[name]
            plain = own.get("instructions", 0) - sum(own.get(name, 0) for name in COUNTED)
            counts["instruction"] = counts.get("instruction", 0) + plain
        rows.append((item, counts, *model.cycles(counts)))
    return rows


def transitions(result, model):
    """[(phase, {constant: count}, low, high)]: what the exits to L1 and its INVEPTs alone cost."""
    phases = {}
    for row in result["runs"][0]["counters"]:
        name = ("round_trip" if "reason" in row else
                {"invept.hardware": "invept"}.get(row.get("counter")))
        if row["level"] == 1 and name:
            counts = phases.setdefault(row["phase"], {})
            counts[name] = counts.get(name, 0) + row["count"]
    return [(phase, counts, *model.cycles(counts)) for phase, counts in phases.items()]


START = re.compile(r"bench-start: exit-cost .*hypervisor=(?P<hypervisor>\d) model=(?P<model>.*?)\s*$", re.M)
ITEM = re.compile(r"bench-json: (\{\"item\":\"calibrate\..*\})\s*$", re.M)
# How the constants follow from the items: item, how often what is measured is in one repetition.
MEASURED = {"vmread": ("vmread", 1), "vmwrite": ("vmwrite", 1), "vmptrld": ("vmptrld-two", 2),
            "invept": ("invept", 1), "invvpid": ("invvpid", 1)}
NOT_MEASURED = ("entry_checks", "instruction")


def measured(serial, hypervisor_below=False, by=""):
    """A cost model, as it is written, from the serial output of the guest with items=calibrate; BY is what emulated
    the processor."""
    start = START.search(serial)
    if not start:
        raise ResultError("no line \"bench-start: exit-cost\" of a guest that calibrates")
    if int(start["hypervisor"]) and not hypervisor_below:
        raise ResultError(f"measured under a hypervisor on {start['model']}: not what the processor takes")
    per_one = {}
    for text in ITEM.findall(serial):
        try:
            one = json.loads(text)
        except ValueError:
            raise ResultError(f"unreadable line {text[:100]!r}") from None
        if "samples" in one:
            per_one[one["item"].partition(".")[2]] = (one["samples"], one.get("batch", 1))
    missing = [n for n in ("empty", "vmclear-vmptrld", "round-trip", *(i for i, _ in MEASURED.values()))
               if n not in per_one]
    if missing:
        raise ResultError(f"not measured: {', '.join(missing)} (does the machine have VMX with VPID?)")
    empty = statistics.median(per_one["empty"][0])

    def each(item, repeated=1):
        samples, batch = per_one[item]
        ordered = sorted((s - empty) / batch / repeated for s in samples)
        return [max(0.0, ordered[int(share * (len(ordered) - 1))]) for share in (0.05, 0.5, 0.95)]

    found = {name: each(item, repeated) for name, (item, repeated) in MEASURED.items()}
    found["vmclear"] = _less(each("vmclear-vmptrld"), found["vmptrld"][1])
    found["round_trip"] = _less(each("round-trip"), 3 * found["vmread"][1] + found["vmwrite"][1])
    published = load(PUBLISHED).constants
    where = start["model"] + (", under a hypervisor" if int(start["hypervisor"]) else "") + by
    constants = {name: {"low": round(low, 1), "high": round(high, 1), "median": round(middle, 1), "basis": "measured",
                        "what": published[name]["what"], "source": f"measured on {where}", "url": ""}
                 for name, (low, middle, high) in found.items()}
    constants.update({name: published[name] for name in NOT_MEASURED})
    return {"schema": SCHEMA, "name": f"measured on {where}", "unit": "cycles",
            "constants": {name: constants[name] for name in CONSTANTS}}


def _less(values, known):
    return [max(0.0, v - known) for v in values]
