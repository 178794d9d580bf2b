"""What is computed from exit-cost's items."""

import sys
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "bench"))
sys.dont_write_bytecode = True

from suite import exit_cost, result  # noqa: E402


class InveptCost(unittest.TestCase):
    def metrics(self, **added):
        return {f"invept.64.{kind}.{part}.added": result.metric(value, "ticks")
                for kind, values in added.items()
                for part, value in zip(("invept", "entry", "touch"), values)}

    def test_all_of_it_less_the_same_without(self):
        costs = exit_cost.invept_costs(self.metrics(none=(0, 500, 501), nothing=(300, 650, 501), table=(300, 5000, 700)))
        self.assertEqual({name: cost["value"] for name, cost in costs.items()},
                         {"invept.64.nothing.cost": 450, "invept.64.table.cost": 4999})

    def test_parts_missing(self):
        self.assertEqual(exit_cost.invept_costs(self.metrics(none=(0, 500), nothing=(300, 650))), {})
        self.assertEqual(exit_cost.invept_costs(self.metrics(nothing=(300, 650, 5))), {})


if __name__ == "__main__":
    unittest.main()
