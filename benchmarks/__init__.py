"""Benchmarks: dualmode in both modes beside the engines that are installed. `python -m benchmarks`.

`workloads` and `functions` say what is computed, `catalogue` with which sizes, under which name;
`ours`, `peers_*` and `functions_*` how each library's user would write it; `machine` what the
machine can do at most. `contestants` lists library and mode, `measure` times them in turns, each
in a `process` of its own; `fresh` measures what only a new process shows (imports, first calls,
memory, that of all processes by a `tree`), `predictions` the cost model against times, `suite`
measures by name. `figures` keeps what was measured, `goals` says what has to come of it, `report`
prints, `pictures` draws, and `results` writes `RESULTS.md`.
"""
