"""What both compilers say. The objects stay in build/source for the checks of machine code."""

import os

from tree import TEST_FOLDERS

STRICT = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wmissing-prototypes", "-Werror"]
HOSTED = ["-std=gnu11", "-O1", "-I."]
# Flags of the image that only gcc has.
GCC_ONLY = {"-fno-allow-store-data-races", "-mindirect-branch=thunk-inline", "-mindirect-branch-register"}


def flags_for(tree, compiler):
    return [flag for flag in tree.cflags if compiler == "gcc" or flag not in GCC_ONLY] + STRICT


def first_lines(text, count=6):
    return "\n".join(text.strip().splitlines()[:count])


def headers_alone(tree):
    """each header compiles by itself, and twice, with gcc and with clang"""
    problems = tree.missing("gcc", "clang")
    if problems:
        return problems

    def check(item):
        compiler, path, flags = item
        text = f'#include "{path}"\n' * 2
        status, _, errors = tree.call([compiler, *flags, "-fsyntax-only", "-x", "c", "-"], input=text)
        return [f"{path} ({compiler}): {first_lines(errors)}"] if status else []

    items = [(compiler, path, flags_for(tree, compiler)) for compiler in ("gcc", "clang") for path in tree.image_headers]
    items += [(compiler, path, HOSTED + STRICT) for compiler in ("gcc", "clang")
              for path in tree.files(TEST_FOLDERS, ".h")]
    return tree.each(check, items)


def warnings(tree, compiler):
    problems = tree.missing(compiler)
    if problems:
        return problems

    def check(path):
        out = tree.object_of(path, compiler)
        out.parent.mkdir(parents=True, exist_ok=True)
        new = out.with_suffix(f".{os.getpid()}")  # another run of the checks may be looking at the old one
        status, _, errors = tree.call([compiler, *flags_for(tree, compiler), "-c", "-o", new, path])
        if status:
            out.unlink(missing_ok=True)
            new.unlink(missing_ok=True)
            return [f"{path}: {first_lines(errors)}"]
        new.replace(out)
        return []

    return tree.each(check, tree.image_c)


def warnings_gcc(tree):
    """the hypervisor compiles without a warning with gcc"""
    return warnings(tree, "gcc")


def warnings_clang(tree):
    """the hypervisor compiles without a warning with clang"""
    return warnings(tree, "clang")
