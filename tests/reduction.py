"""Shortens a list of steps that makes a test fail."""


def shorten(steps, fails, tries=400):
    """The shortest list found, by leaving out runs of steps, ever shorter ones; fails(steps) says whether it still fails.

    At most so many tries. What is returned is STEPS itself, or a list for which fails() was true.
    """
    size = max(1, len(steps) // 2)
    while size and tries > 0:
        at, shorter = 0, False
        while at < len(steps) and tries > 0:
            rest = steps[:at] + steps[at + size:]
            tries -= 1
            if len(rest) < len(steps) and fails(rest):
                steps, shorter = rest, True
            else:
                at += size
        if not shorter or size > len(steps):
            size //= 2
    return steps
