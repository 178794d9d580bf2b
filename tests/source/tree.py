"""What the source checks look at: the files of the repository, and running a tool over them."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

FOLDERS = ("core", "shadow-vmcs", "ept-cache", "x2apic", "nested")
TEST_FOLDERS = ("tests/host", "tests/fuzz")
# Where a missing tool comes from.
PACKAGES = {"gcc": "gcc", "clang": "clang", "objdump": "binutils", "nm": "binutils", "clang-format": "clang-format",
            "cppcheck": "cppcheck", "clang-tidy": "clang-tidy"}


# Tools that judge differently from version to version, and whose judgement the sources follow: Debian 12's.
VERSIONS = {"clang-format": "14", "cppcheck": "2.10"}


class Skipped(str):
    """What a check returns that cannot judge here: the reason."""


class Tree:
    def __init__(self, top, build, cflags, jobs):
        self.top, self.out, self.cflags, self.jobs = top, top / build / "source", cflags, jobs

    def files(self, folders, *suffixes):
        """Paths relative to the top, sorted."""
        return sorted(path.relative_to(self.top) for folder in folders for suffix in suffixes
                      for path in (self.top / folder).rglob(f"*{suffix}") if path.is_file())

    @cached_property
    def image_c(self):
        return self.files(FOLDERS, ".c")

    @cached_property
    def image_headers(self):
        return self.files(FOLDERS, ".h")

    def read(self, path):
        return (self.top / path).read_text(errors="replace")

    def missing(self, *tools):
        """One line for each tool that is not there."""
        return [f"{tool} is missing (Debian package {PACKAGES[tool]})" for tool in tools if not shutil.which(tool)]

    def other_version(self, tool):
        """Skipped, where TOOL is not of the version that the sources follow; else None."""
        found = re.search(r"\d+(?:\.\d+)*", self.call([tool, "--version"])[1])
        wanted = VERSIONS[tool]
        if found and not f"{found[0]}.".startswith(f"{wanted}."):
            return Skipped(f"{tool} is version {found[0]} here; the sources follow version {wanted}")
        return None

    def call(self, command, **options):
        """(status, stdout, stderr)"""
        done = subprocess.run(list(map(str, command)), cwd=self.top, capture_output=True, text=True, errors="replace",
                              **options)
        return done.returncode, done.stdout, done.stderr

    def each(self, function, items):
        """Problems that function(item) returns for all items, worked on side by side."""
        with ThreadPoolExecutor(self.jobs) as pool:
            return [problem for problems in pool.map(function, items) for problem in problems]

    def object_of(self, source, compiler="gcc"):
        return self.out / compiler / source.with_suffix(".o")
