"""A git revision measured here: built in a work tree of its own, its image run by this tree's scenarios."""

import subprocess
import sys
from pathlib import Path

from .result import ResultError, load
from .setup import TOP


def resolve(revision):
    """The commit's full name; empty where there is no such revision (in a shallow clone, say)."""
    done = subprocess.run(["git", "-C", TOP, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"],
                          capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def measure(revision, scenario, words, scratch, said=sys.stderr):
    """The result of SCENARIO with WORDS for bench/run on the revision's image; once for each folder SCRATCH."""
    commit = resolve(revision)
    if not commit:
        raise ResultError(f"{revision} is neither a result file nor a git revision")
    tree, out = Path(scratch) / commit, Path(scratch) / f"{commit}.json"
    if not out.is_file():
        _must(["git", "-C", TOP, "worktree", "add", "--quiet", "--detach", tree, commit], f"git worktree of {revision}", said)
        try:
            _must(["make", "-s", "-C", tree, "-j2", "build/strata.elf"], f"building {revision}", said)
            _must([TOP / "bench/run", scenario, "--strata", tree / "build/strata.elf", "--source", tree,
                   "--work", Path(scratch) / "work", "--out", out, *words], f"{scenario} on {revision}", said)
        finally:
            subprocess.run(["git", "-C", TOP, "worktree", "remove", "--force", tree], check=False)
    return load(out)


def _must(command, what, said):
    if subprocess.run([str(c) for c in command], stdout=said, stderr=said).returncode:
        raise ResultError(f"{what} failed")
