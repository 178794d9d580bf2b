"""Who may include whom, what stands at the top, and what a reader may rely on finding."""

import re
from pathlib import Path

import machinecode
from tree import FOLDERS, TEST_FOLDERS

TOP_LEVEL = {"Makefile", *FOLDERS, "bench", "tests", "README.md", "CONTRIBUTING.md", "LICENSE", "docs", "install", "debian", "build"}
# The table "Layout" of the design: a folder and those whose headers its files may include.
MAY_INCLUDE = {
    "core": {"core"},
    "shadow-vmcs": {"core", "shadow-vmcs"},
    "ept-cache": {"core", "ept-cache"},
    "x2apic": {"core", "x2apic"},
    "nested": {"core", "shadow-vmcs", "ept-cache", "x2apic", "nested"},
}
# Folders of tests/host besides the hypervisor's own: the fake machine, and what all tests use.
TEST_ROOMS = {"machine", "support"}
# The rooms of core, from the ground up: each may include those before it. Folders above core include all but the last.
ROOMS = ("lib", "memory", "cpu", "guest", "boot")
UPCALL, UPCALL_ROOMS = "core/upcall.h", ("guest", "boot")
# The processor itself comes up by these: a VM exit, and the boot loader's jump to Strata.
WAYS_UP = {"core/cpu/exit.S": {"exit_dispatch", "entry_instruction_failed", "entry_inject_pending"}}
FREESTANDING = {"stdarg.h", "stdbool.h", "stddef.h", "stdint.h", "limits.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
TEST_BUILD = re.compile(r"^\s*#\s*(?:el)?if.*\bTEST\b", re.MULTILINE)
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE_WORD = re.compile(r"`([^`\n]+)`")
TARGET = re.compile(r"^([a-z][\w-]*(?: [a-z][\w-]*)*):(?!=)", re.MULTILINE)


def top_level(tree):
    """the top level holds what the design says, and dotfiles"""
    return [f"{path.name}: not part of the layout" for path in sorted(tree.top.iterdir())
            if path.name not in TOP_LEVEL and not path.name.startswith(".")]


def room_of(path):
    """Height of a file's room; upcall.h and the folders above core are above the rooms that they may look into."""
    parts = path.split("/")
    return ROOMS.index(parts[1]) if parts[0] == "core" and len(parts) > 2 else len(ROOMS)


def rooms(tree):
    """rooms of core include only lower ones, upcall.h is for those that call up, nobody above core looks into core/boot"""
    problems = [f"core/{path.name}: core has the rooms {', '.join(ROOMS)} and upcall.h" for path in (tree.top / "core").iterdir()
                if path.name not in (*ROOMS, Path(UPCALL).name)]
    for path in map(str, tree.files(FOLDERS, ".c", ".h", ".S", ".def")):
        own = room_of(path)
        for kind, name in INCLUDE.findall(tree.read(path)):
            if kind == "<" or not name.startswith("core/"):
                continue
            if name == UPCALL:
                if own < len(ROOMS) and ROOMS[own] not in UPCALL_ROOMS:
                    problems.append(f"{path}: a file of core/{ROOMS[own]} may not call up ({name})")
            elif room_of(name) > own or (own == len(ROOMS) and name.startswith(f"core/{ROOMS[-1]}/")):
                problems.append(f"{path}: may not include {name}, which lies higher")
    return problems


def asm_object(tree, path):
    return tree.object_of(path).with_suffix(".S.o")


def room_symbols(tree):
    """what a file calls or reads is defined in its own room, a lower one, or declared in upcall.h"""
    problems = tree.missing("gcc", "nm")
    if problems:
        return problems
    asm = tree.files(FOLDERS, ".S")
    for path in asm:
        out = asm_object(tree, path)
        out.parent.mkdir(parents=True, exist_ok=True)
        status, _, errors = tree.call(["gcc", "-I.", "-c", "-o", out, path])
        if status:
            problems.append(f"{path}: {errors.strip()}")
    objects = {path: tree.object_of(path) for path in tree.image_c} | {path: asm_object(tree, path) for path in asm}
    tables = {str(path): machinecode.symbols(tree, out) for path, out in objects.items() if out.is_file()}
    home = {name: path for path, (defined, _) in tables.items() for name in defined}
    up = set(re.findall(r"\b(\w+)\(", tree.read(UPCALL)))
    linker = tree.read("core/boot/strata.lds")
    for path, (_, undefined) in tables.items():
        for name in sorted(undefined - WAYS_UP.get(path, set())):
            if name not in home:
                if name != "_GLOBAL_OFFSET_TABLE_" and not re.search(rf"\b{name}\b", linker):
                    problems.append(f"{path}: {name} is defined nowhere")
            elif path.startswith("core/") and room_of(home[name]) > room_of(path):
                if room_of(home[name]) < len(ROOMS) or name not in up:
                    problems.append(f"{path}: uses {name} of {home[name]}, which lies higher")
            elif home[name].split("/")[0] not in MAY_INCLUDE[path.split("/")[0]] and not path.startswith("core/"):
                problems.append(f"{path}: uses {name} of {home[name]}, which it may not include")
    return problems


def includes(tree):
    """folders include only what their layer allows, by a path from the top"""
    problems = []
    for path in tree.files(FOLDERS, ".c", ".h", ".S", ".def"):
        allowed = MAY_INCLUDE[path.parts[0]]
        for kind, name in INCLUDE.findall(tree.read(path)):
            folder = name.split("/")[0]
            if kind == "<" and name not in FREESTANDING:
                problems.append(f"{path}: <{name}> is not a header of a freestanding compiler")
            elif kind == '"' and folder not in MAY_INCLUDE:
                problems.append(f'{path}: "{name}" does not start with a folder of the hypervisor')
            elif kind == '"' and folder not in allowed:
                problems.append(f"{path}: {path.parts[0]} may not include {folder} ({name})")
            elif kind == '"' and not (tree.top / name).is_file():
                problems.append(f'{path}: "{name}" does not exist')
    return problems


def test_rooms(tree):
    """tests/host has the hypervisor's rooms, every file is in one, and no two tests have one name"""
    allowed = {*ROOMS, *FOLDERS, *TEST_ROOMS} - {"core"}
    files = tree.files(("tests/host",), ".c", ".h")
    problems = [f"{path}: tests/host/{path.parent.relative_to('tests/host')} is no room of tests (there are "
                f"{', '.join(sorted(allowed))})" for path in files if path.parent.parts[2:] not in {(room,) for room in allowed}]
    names = [path.name for path in files if path.name.startswith("test_")]
    return problems + [f"tests/host: {name} is there twice" for name in sorted(set(names)) if names.count(name) > 1]


def openings(tree):
    """every file opens with a comment that says what it is"""
    problems = []
    for path in tree.files((*FOLDERS, *TEST_FOLDERS), ".c", ".h", ".S", ".def"):
        if not tree.read(path).startswith("/*"):
            problems.append(f"{path}: does not open with a comment")
    return problems


def words(tree):
    """nothing unfinished is marked, nothing is compiled for tests only"""
    problems = []
    for path in tree.files((*FOLDERS, *TEST_FOLDERS), ".c", ".h", ".S", ".def"):
        text = tree.read(path)
        for number, line in enumerate(text.splitlines(), 1):
            if UNFINISHED.search(line):
                problems.append(f"{path}:{number}: {line.strip()}")
        if path.parts[0] in FOLDERS and TEST_BUILD.search(text):
            problems.append(f"{path}: compiled differently for tests")
    return problems


def documents(tree):
    """README.md, CONTRIBUTING.md and those of docs/; the latter's drawings name things, too"""
    pages = [Path(name) for name in ("README.md", "CONTRIBUTING.md") if (tree.top / name).is_file()] + tree.files(("docs",), ".md")
    for page in pages:
        text = tree.read(page)
        words = CODE_WORD.findall(FENCED.sub("", text))
        if page.parts[0] == "docs":
            words += [word for drawing in FENCED.findall(text) for word in re.findall(r"[\w./-]+", drawing)]
        yield page, words


def readme(tree):
    """files, functions, constants and make targets that the documents name exist"""
    sources = "\n".join(tree.read(path) for path in tree.files((*FOLDERS, "tests", "bench"), ".c", ".h", ".S", ".def",
                                                               ".py", ".sh", ".mk", ".lds"))
    makefiles = "\n".join(tree.read(path) for path in [tree.top / "Makefile", *tree.files(("tests", "bench", "install"), ".mk")])
    targets = {name for names in TARGET.findall(makefiles) for name in names.split()}
    known = set(re.findall(r"\w+", sources))
    problems = []
    for page, words in documents(tree):
        for word in words:
            path = word.split(":")[0].removeprefix("./")
            name = re.fullmatch(r"([A-Za-z]\w*_\w+)(?:\(\))?", word)
            make = re.match(r"make ([a-z][\w-]*)(?: |$)", word)
            if re.fullmatch(r"[\w.-]+(?:/[\w.-]+)+/?", path) and path.split("/")[0] in TOP_LEVEL - {"build"}:
                if not (tree.top / path.replace("/ROOM/test_x.c", "")).exists():
                    problems.append(f"{page}: `{word}` does not exist")
            elif name and name[1] not in known:
                problems.append(f"{page}: `{word}` is nowhere in the sources")
            elif make and make[1] not in targets:
                problems.append(f"{page}: `{word}`: no such target")
    return problems
