"""What is measured, how it is written down, and how two results are compared.

setup.py says what a run is made of; exit_cost.py, linux_boot.py, keyboard.py and keyboard_outside.py are the scenarios;
result.py owns the form of a result file; compare.py, export.py and plot.py read nothing else.
"""

from dataclasses import dataclass
from typing import Callable

from . import exit_cost, keyboard, keyboard_outside, linux_boot


@dataclass
class Scenario:
    """run(setup, out_dir, progress, **options) -> result.Run; the rest are its defaults."""

    run: Callable
    adjust: Callable  # Setup -> Setup, or a MachineError
    options: Callable  # the command line's words that the scenario understands
    levels: int
    smp: int
    memory_mib: int
    guest: Callable = lambda **_options: {}  # {"what": version} of what runs in the machine


def _checked(module):
    def adjust(setup):
        module.check(setup)
        return setup
    return adjust


def _exit_cost_options(args):
    return {"items": args.items, "invept": args.invept, **({"traced": args.trace} if args.trace else {})}


def _boot_options(args):
    return {"reference": args.reference, "kernel": args.kernel,
            **({"arch": args.arch} if args.arch != "amd64" else {})}


SCENARIOS = {
    "exit-cost": Scenario(exit_cost.run, _checked(exit_cost),
                          _exit_cost_options, 1, 1, 512),
    "grub-keyboard": Scenario(keyboard.run, _checked(keyboard), lambda a: {"presses": a.presses},
                              2, 1, 256),
    "grub-keyboard-outside": Scenario(keyboard_outside.run, _checked(keyboard_outside),
                                      lambda a: {"presses": a.presses}, 2, 1, 256),
    "linux-boot": Scenario(linux_boot.run, _checked(linux_boot), _boot_options, 2, 2, 1024, linux_boot.guest),
    "invept-storm": Scenario(linux_boot.run, lambda s: _checked(linux_boot)(linux_boot.storm(s)),
                             _boot_options, 2, 2, 1024, linux_boot.guest),
}
