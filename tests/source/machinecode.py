"""Privileged instructions stay in core/lib/hw.c and the .S files; pure files call only what they may."""

import re
from pathlib import Path

from tree import FOLDERS

HARDWARE_FILE = Path("core/lib/hw.c")
PURE_LIST = Path("tests/source/pure.list")
# The services of core/memory/mem.h.
PURE_MAY_CALL = {"memcpy", "memset", "memcmp", "panic", "hpa_ptr", "gpa1_ptr", "pool_alloc", "pool_free"}
# Privileged, or for the fake machine to answer (CPUID, RDTSC, XGETBV). Mnemonics as the disassembler and asm() have them.
PRIVILEGED = re.compile(
    r"(?:vm(?:call|clear|func|launch|ptrld|ptrst|read|resume|write|xoff|xon)|inv(?:ept|vpid|pcid|lpg|d)|wbinvd|wbnoinvd"
    r"|rdmsr|wrmsr|rdpmc|rdtscp?|cpuid|xgetbv|xsetbv|xsaves|xrstors|cli|sti|hlt|mwait|monitor|clts|lmsw|smsw"
    r"|[ls][gi]dt|[ls]ldt|ltr|str|swapgs|sys(?:ret|exit)|iret|in|out|ins|outs|getsec|encls|rsm|rdrand|rdseed"
    r"|int3?|syscall|sysenter)(?:[bwlqd]|64)?")
CONTROL_REGISTER = re.compile(r"%%?(?:cr[0-9]+|db[0-9]+|dr[0-9]+)\b")
ASM = re.compile(r"\b(?:__asm__|asm)\b[^;]*?\(((?:[^;]|;(?=[^\n]*\"))*?)\)\s*;", re.DOTALL)
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
INDIRECT = re.compile(r"\b(?:call|jmp)q?\s+\*")
CODE = re.compile(r"^\s*[0-9a-f]+:\s+(.*)$")
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
PREFIXES = {"rep", "repz", "repnz", "repe", "repne", "lock", "data16", "addr32", "rex.w", "rex.W", "cs", "ds", "es", "notrack",
            "bnd", "volatile"}


def privileged(instruction):
    """The mnemonic if one instruction in AT&T syntax is for core/lib/hw.c only, else None."""
    parts = instruction.split()
    while parts and (parts[0] in PREFIXES or parts[0].endswith(":")):
        parts.pop(0)
    if not parts:
        return None
    if PRIVILEGED.fullmatch(parts[0]) or (parts[0].startswith("mov") and CONTROL_REGISTER.search(instruction)):
        return parts[0]
    return None


def privileged_asm(tree):
    """no asm() outside core/lib/hw.c has a privileged instruction, compiled or not"""
    problems = []
    for path in tree.files(FOLDERS, ".c", ".h"):
        if path == HARDWARE_FILE:
            continue
        for body in ASM.findall(tree.read(path)):
            code = body.split(":")[0] if ":" in STRING.sub("", body) else body
            text = "".join(STRING.findall(code)).replace("\\n", ";").replace("\\t", " ")
            problems += [f"{path}: asm: {part.strip()}" for part in text.split(";") if privileged(part)]
    return problems


def privileged_code(tree):
    """no object but that of core/lib/hw.c has a privileged instruction"""
    problems = tree.missing("objdump")
    if problems:
        return problems

    def check(path):
        if path == HARDWARE_FILE or not tree.object_of(path).is_file():
            return []
        status, text, errors = tree.call(["objdump", "-d", "--no-show-raw-insn", tree.object_of(path)])
        if status:
            return [f"{path}: {errors.strip()}"]
        found, function = [], "?"
        for line in text.splitlines():
            function = FUNCTION.match(line)[1] if FUNCTION.match(line) else function
            code = CODE.match(line)
            if code and privileged(code[1]):
                found.append(f"{path}: {function}: {code[1].strip()}")
        return found

    compiled = [f"{path}: was not compiled" for path in tree.image_c if not tree.object_of(path).is_file()]
    return compiled + tree.each(check, tree.image_c)


def indirect_branches(tree):
    """no object branches where a predictor that its guest has trained says: indirect calls and jumps are thunks of returns"""
    problems = tree.missing("objdump")
    if problems:
        return problems

    def check(path):
        if not tree.object_of(path, "gcc").is_file():
            return [f"{path}: was not compiled"]
        _, text, _ = tree.call(["objdump", "-d", "--no-show-raw-insn", tree.object_of(path, "gcc")])
        return [f"{path}: {line.strip()}" for line in text.splitlines() if INDIRECT.search(line)]

    return tree.each(check, tree.image_c)


def pure_files(tree):
    lines = (line.split("#")[0].strip() for line in tree.read(PURE_LIST).splitlines())
    return [Path(line) for line in lines if line]


def pure_list(tree):
    """the list of pure files exists on disk, and has all files whose first comment says that they are pure"""
    listed = set(pure_files(tree))
    gone = [f"{PURE_LIST}: {path} does not exist" for path in sorted(listed) if not (tree.top / path).is_file()]
    return gone + [f"{path}: says that it is pure; {PURE_LIST} has it not" for path in tree.image_c
                   if path not in listed and re.search(r"\bPure\b", tree.read(path).split("*/")[0])]


def symbols(tree, out):
    """(defined, undefined) names of an object."""
    _, text, _ = tree.call(["nm", out])
    entries = [line.split() for line in text.splitlines()]
    undefined = {entry[-1] for entry in entries if entry[-2] == "U"}
    return {entry[-1] for entry in entries} - undefined, undefined


def pure_symbols(tree):
    """pure files call the services of core/memory/mem.h and each other, nothing else"""
    problems = tree.missing("nm")
    if problems:
        return problems
    files = [path for path in pure_files(tree) if (tree.top / path).is_file()]
    missing = [f"{path}: was not compiled" for path in files if not tree.object_of(path).is_file()]
    tables = {path: symbols(tree, tree.object_of(path)) for path in files if tree.object_of(path).is_file()}
    known = PURE_MAY_CALL.union(*(defined for defined, _ in tables.values()))
    return missing + [f"{path}: uses {name}" for path, (_, undefined) in tables.items()
                      for name in sorted(undefined - known)]
