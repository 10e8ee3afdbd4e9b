"""Benchmarks: dualmode in both modes beside the engines that are installed. `python -m benchmarks`.

`workloads` says what is computed, `ours` and `peers_*` how each library's user would write it,
`contestants` lists library and mode, `measure` times them in turns, `fresh` measures what only a
new process shows (imports, first calls, memory), `report` prints, saves and draws.
"""
