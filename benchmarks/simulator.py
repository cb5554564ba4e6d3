"""Events a second of the simulated exchange, with event objects and as tables."""

import gc

from machine import goal, number, parser, progress, report, runs, table, timed

from chopmark.datasets import SCHEMA, Simulation, simulate

GOAL = 20_000


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--users", type=int, default=2_000)
    arguments.add_argument("--days", type=int, default=120)
    arguments.add_argument("--repeats", type=int, default=5)
    given = arguments.parse_args()
    with report(f"Simulator, {given.users:,} honest users for {given.days} days"):
        simulate(num_users=50, days=30)
        planned, made, tabled = [], [], []
        for turn in range(given.repeats):
            progress(f"simulating, {turn + 1} of {given.repeats}")
            kept: list[Simulation] = []

            def plan(turn: int = turn, kept: list[Simulation] = kept) -> None:
                kept.append(simulate(num_users=given.users, days=given.days, seed=turn))

            planning, _ = timed(plan)
            simulation = kept[0]
            making, _ = timed(lambda it=simulation: sum(1 for _ in it.events()))
            tabling, _ = timed(lambda it=simulation: [it.frame(name) for name in SCHEMA.types])
            planned.append(simulation.num_events / planning)
            made.append(simulation.num_events / (planning + making))
            tabled.append(simulation.num_events / (planning + tabling))
            gc.collect()
        print(f"{simulation.num_events:,} events of {len(SCHEMA.types)} types a run.\n")
        rate = runs(made)
        reached = f">= {number(GOAL)}: {goal(rate.median, GOAL, least=True)}"
        table(
            ["what", "events/s", "goal"],
            [
                ["events drawn, still as arrays", runs(planned).text(), ""],
                ["with `Event` objects in order", rate.text(), reached],
                ["with tables instead", runs(tabled).text(), ""],
            ],
        )


if __name__ == "__main__":
    main()
