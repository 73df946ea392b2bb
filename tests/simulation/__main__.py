"""`python -m tests.simulation`: run simulations by seed. See --help, and docs/proof.md.

--seed N            one storm, with its trace if it fails (--long: one long stretch)
--storms N          storms with seeds from --first
--hours H           long stretches until H simulated hours are done, with seeds from --first
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.simulation import plan as plans
from tests.simulation.planted import DEFECTS, planted
from tests.simulation.scenario import Verdict, simulate


def main() -> int:
    """Exit code 1 if anything failed."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets would differ from run to run
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    asked = _arguments()
    if asked.plant:
        caught = [_caught(name, asked) for name in (DEFECTS if asked.plant == "all" else [asked.plant])]
        return 0 if all(caught) else 1
    failed = 0
    begun, hours, count = time.monotonic(), 0.0, 0
    for each in _plans(asked):
        verdict = simulate(each)
        hours, count = hours + verdict.hours, count + 1
        print(_line(verdict), flush=True)
        if not verdict.good:
            failed += 1
            _report(verdict, asked)
        if asked.hours and hours >= asked.hours:
            break
    spent = time.monotonic() - begun
    print(f"{count} simulations, {failed} failed, {hours:,.1f} simulated hours in {spent:.1f} s", flush=True)
    return 1 if failed else 0


def _caught(name: str, asked: argparse.Namespace) -> bool:
    """Plant a defect and simulate until something is seen."""
    for seed in range(asked.first, asked.first + asked.within):
        with planted(name):
            verdict = simulate(plans.hunt(seed))
        if not verdict.good:
            print(f"caught: {name}, by seed {seed}: {verdict.problems[0][:160]}", flush=True)
            return True
    print(f"NOT CAUGHT: {name}", flush=True)
    return False


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="this one simulation")
    parser.add_argument("--long", action="store_true", help="with --seed: a long stretch instead of a storm")
    parser.add_argument("--storms", type=int, default=0, help="how many storms")
    parser.add_argument("--hours", type=float, default=0, help="long stretches, until so many simulated hours are done")
    parser.add_argument(
        "--plant", default="", help="plant this defect; exit code 0 if it is caught. 'all' = each in turn"
    )
    parser.add_argument("--within", type=int, default=12, help="with --plant: how many seeds there are to catch it")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--trace", type=int, default=60, help="lines of the trace shown of a failure; 0 = all")
    parser.add_argument("--shrink", action="store_true", help="look for a smaller plan that fails too")
    return parser.parse_args()


def _plans(asked: argparse.Namespace) -> list[plans.Plan]:
    if asked.seed is not None:
        return [plans.long(asked.seed) if asked.long else plans.storm(asked.seed)]
    found = [plans.storm(seed) for seed in range(asked.first, asked.first + asked.storms)]
    return found + [plans.long(seed) for seed in range(asked.first, asked.first + (10_000 if asked.hours else 0))]


def _line(verdict: Verdict) -> str:
    plan = verdict.plan
    kind = "long " if plan.pace > 1 else "storm"
    facts = " ".join(f"{name}={value}" for name, value in verdict.facts.items())
    outcome = "ok    " if verdict.good else "FAILED"
    return f"{kind} {plan.seed:>6} {outcome} {verdict.hours:9.1f} h  {plan.engines}x{plan.workers}  {facts}"


def _report(verdict: Verdict, asked: argparse.Namespace) -> None:
    if asked.shrink:
        verdict = shrunk(verdict)
        print(f"smallest plan that fails: {verdict.plan}")
    print("\n".join(verdict.trace[-asked.trace :]))
    print("\n".join(f"  {problem}" for problem in verdict.problems[:20]))
    again = f"python -m tests.simulation --seed {verdict.plan.seed}" + (" --long" if verdict.plan.pace > 1 else "")
    print(f"replay: {again} --trace 0 [--shrink]", flush=True)


def shrunk(verdict: Verdict) -> Verdict:
    """The smallest failing plan that taking things away one by one leads to."""
    smaller = True
    while smaller:
        smaller = False
        for plan in verdict.plan.smaller():
            tried = simulate(plan)
            if not tried.good:
                verdict, smaller = tried, True
                break
    return verdict


if __name__ == "__main__":
    sys.exit(main())
