"""Format and static analysis."""

import re

from tree import FOLDERS, TEST_FOLDERS, Skipped

FORMATTED = (*FOLDERS, *TEST_FOLDERS, "tests/guests", "tests/linux", "bench")
CPPCHECK = [
    "--std=c11", "--platform=unix64", "--language=c", "--enable=warning,performance,portability", "--inline-suppr",
    "--library=tests/source/cppcheck.cfg", "--quiet", "--error-exitcode=1", "-I.",
    "--template={file}:{line}: {id}: {message}",
    # Headers of the compiler are not looked for; what they declare is known.
    "--suppress=missingIncludeSystem",
    # The table file is included under different macros, which one run cannot all see.
    "--suppress=*:core/cpu/vmcs_fields.def",
    # The ends of sections are symbols of the linker script: pointers that are compared although nothing is there.
    "--suppress=comparePointers",
    # A value that comes out of asm goto.
    "--suppress=legacyUninitvar:core/lib/hw.c",
]
TIDY = re.compile(r": (?:warning|error): .*\[[\w.,-]+\]$")


def formatted_files(tree):
    return tree.files(FORMATTED, ".c", ".h")


def clang_format(tree):
    """the C files are formatted as .clang-format has it (`make format`)"""
    problems = tree.missing("clang-format") or tree.other_version("clang-format")
    if problems:
        return problems

    def check(path):
        status, text, errors = tree.call(["clang-format", "--style=file", path])
        if status:
            return [f"{path}: {errors.strip()}"]
        lines, wanted = tree.read(path).splitlines(), text.splitlines()
        if lines == wanted:
            return []
        number = next((i for i, (a, b) in enumerate(zip(lines, wanted)) if a != b), min(len(lines), len(wanted)))
        return [f"{path}:{number + 1}: not formatted (make format)"]

    return tree.each(check, formatted_files(tree))


def rewrite(tree):
    cannot = tree.missing("clang-format") or tree.other_version("clang-format")
    if cannot:
        print(cannot if isinstance(cannot, Skipped) else cannot[0])
        return 1
    status, _, errors = tree.call(["clang-format", "--style=file", "-i", *formatted_files(tree)])
    print(errors, end="")
    return status


def cppcheck(tree):
    """cppcheck finds nothing"""
    problems = tree.missing("cppcheck") or tree.other_version("cppcheck")
    if problems:
        return problems
    status, text, errors = tree.call(["cppcheck", *CPPCHECK, f"-j{tree.jobs}", *FOLDERS])
    return (text + errors).strip().splitlines() if status else []


def clang_tidy(tree):
    """clang-tidy finds nothing that .clang-tidy asks for"""
    problems = tree.missing("clang-tidy")
    if problems:
        return problems

    def check(path):
        _, text, _ = tree.call(["clang-tidy", "--quiet", path, "--", "-std=gnu11", "-ffreestanding", "-I."])
        return [line.replace(f"{tree.top}/", "") for line in text.splitlines() if TIDY.search(line)]

    return sorted(set(tree.each(check, tree.image_c)))
