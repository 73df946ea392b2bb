"""The pure core: what a run is, and what becomes of it.

    decide(definition, state, view, command, now_us) -> Decision      one command in, one complete outcome out
    evolve(state, items, event) -> state, items                       the only way in which a state changes

No I/O, clock, chance, ids, log or loop: whatever is not recorded comes in as an argument, so the same question has
the same answer, and a history replayed gives the state that the live run had. How a decision comes about:

    decide.py      judges the command, then lets the run go on as far as it can by itself
    turn.py        the decision in the making: state so far, events, effects
    flow.py        the run's way: enter actions, body, transitions, exit actions, compensation, next state, end
    opening.py     from a step of the definition to a node of open work (tasks, waits, children, people, joins)
    joining.py     what parallels and maps make of the outcomes below them
    attempts.py    leases, results, retries, time limits, crashes
    signals.py, timers.py, ending.py, pausing.py, repair.py, updates.py      what comes from outside
    events.py, evolve*.py, state.py, tree.py                                 facts, their effect, the records
    invariants.py, explain.py, activation.py, compaction.py                  for whoever looks at a run or runs its
    tasks

`tests/core/scenarios` shows all of it as text.
"""
