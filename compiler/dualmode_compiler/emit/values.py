"""What emitted instructions are made of: names, types and constants, as LLVM IR text.

In registers a bool is an i1 and a bfloat16 an i16; in memory a bool is an i8.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from ..spec import DType, bool_, float16

if TYPE_CHECKING:
    from ..runtime.jit import Host

_REGISTER = {
    "bool": "i1",
    "float16": "half",
    "bfloat16": "i16",
    "float32": "float",
    "float64": "double",
}
_SUFFIX = {"half": "f16", "float": "f32", "double": "f64"}


class Writer:
    """Collects the body of a function.

    Attributes:
        host: the machine whose own instructions may be used; None for those that all have.
        lines: instructions so far.
        declarations: what their module must have besides: `declare` lines of the intrinsics that
            they call, and definitions of internal functions.
    """

    __slots__ = ("_count", "declarations", "host", "lines")

    def __init__(self, host: Host | None = None) -> None:
        self.host = host
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self._count = 0

    def fresh(self) -> str:
        """A new SSA name. Named rather than numbered, so it may be defined out of order."""
        self._count += 1
        return f"%v{self._count}"

    def emit(self, text: str) -> str:
        """Append an instruction that gives a value; return the value's name."""
        name = self.fresh()
        self.lines.append(f"  {name} = {text}")
        return name

    def line(self, text: str) -> None:
        """Append an instruction without a result, or a label."""
        self.lines.append(text)

    def call(self, intrinsic: str, kind: str, args: list[str], extra: str = "") -> str:
        """Call `llvm.<intrinsic>` of type `kind`; `extra` is a trailing argument with its type."""
        name = f"@llvm.{intrinsic}.{_overload(kind)}"
        kinds, given = [kind] * len(args), [f"{kind} {a}" for a in args]
        if extra:
            kinds.append(extra.split()[0])
            given.append(extra)
        self.declarations.add(f"declare {kind} {name}({', '.join(kinds)})")
        return self.emit(f"call {kind} {name}({', '.join(given)})")


def _overload(kind: str) -> str:
    """`<16 x float>` -> `v16f32`, `i8` -> `i8`."""
    if kind[0] != "<":
        return _SUFFIX.get(kind, kind)
    lanes, _, element = kind[1:-1].split()
    return f"v{lanes}{_SUFFIX.get(element, element)}"


def register_type(dtype: DType, lanes: int) -> str:
    """LLVM type of `lanes` values of `dtype` in registers; a scalar for one lane."""
    element = _REGISTER.get(dtype.name) or f"i{8 * dtype.itemsize}"
    return element if lanes == 1 else f"<{lanes} x {element}>"


def memory_type(dtype: DType, lanes: int) -> str:
    """LLVM type of `lanes` consecutive values of `dtype` in memory."""
    element = "i8" if dtype is bool_ else register_type(dtype, 1)
    return element if lanes == 1 else f"<{lanes} x {element}>"


def literal(value: Any, dtype: DType, lanes: int) -> str:
    """Operand text of a constant, the same in every lane."""
    if dtype is bool_:
        text = "true" if value else "false"
    elif dtype.is_integer:
        text = str(int(value))
    elif dtype.itemsize == 2:
        bits = int.from_bytes(dtype.numpy.type(value).tobytes(), "little")
        text = f"0xH{bits:04X}" if dtype is float16 else str(bits)
    else:
        value = float(dtype.numpy.type(value))
        text = f"0x{struct.pack('>d', value).hex().upper()}"
        if math.isnan(value):
            text = "0x7FF8000000000000"
    return splat_literal(text, dtype, lanes)


def splat_literal(text: str, dtype: DType, lanes: int) -> str:
    return text if lanes == 1 else f"splat ({register_type(dtype, 1)} {text})"


def literal_value(text: str) -> int | float | None:
    """The value of an integer, bool, float32 or float64 literal, or None for an SSA name."""
    if text[0] == "%":
        return None
    if text.startswith("splat"):
        text = text[text.index(" ", 7) + 1 : -1]
    if text in ("true", "false"):
        return int(text == "true")
    if text.startswith("0x"):
        return struct.unpack(">d", bytes.fromhex(text[2:]))[0] if text[2] != "H" else None
    return int(text)


def splat(w: Writer, name: str, dtype: DType, lanes: int) -> str:
    """The scalar `name` in every lane."""
    if lanes == 1:
        return name
    if name[0] != "%":
        return splat_literal(name, dtype, lanes)
    kind, element = register_type(dtype, lanes), register_type(dtype, 1)
    one = w.emit(f"insertelement {kind} poison, {element} {name}, i64 0")
    zeros = f"<{lanes} x i32> zeroinitializer"
    return w.emit(f"shufflevector {kind} {one}, {kind} poison, {zeros}")
