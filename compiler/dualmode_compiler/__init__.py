"""The dualmode compiler: a graph in, a native function out.

It knows no op by name, no tensor and no tape: everything it needs of an operation is in the record
that each graph node carries (`graph.OpDef`).
"""
