"""Vectors of floating elements, as LLVM IR text: what matrix products are written with."""

from __future__ import annotations

from ..records import dataclass
from ..runtime.jit import Host
from ..spec import DType
from .writer import LoopWriter


def attributes(host: Host) -> str:
    """Function attributes that keep LLVM at the host's full vector width."""
    bits = 8 * host.vector_bytes
    return f'nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'


@dataclass(frozen=True)
class Element:
    """How elements of a floating dtype are written in LLVM IR on a host.

    Attributes:
        type: the scalar type.
        lanes: elements in one vector register.
        vector: the vector type.
        suffix: of the vector type in the names of intrinsics.
        size: bytes of one element.
        fma: a fused multiply-add is one instruction.
        pairs: operands are pairs of bfloat16 in the place of elements.
    """

    type: str
    lanes: int
    size: int
    fma: bool
    pairs: bool = False

    @property
    def vector(self) -> str:
        return f"<{self.lanes} x {self.type}>"

    @property
    def suffix(self) -> str:
        return f"v{self.lanes}f{8 * self.size}"

    @property
    def name(self) -> str:
        """What tells kernels of these elements from others."""
        return self.suffix + "_pairs" * self.pairs

    def broadcast(self, w: LoopWriter, scalar: str) -> str:
        one = w.emit(f"insertelement {self.vector} poison, {self.type} {scalar}, i64 0")
        order = f"<{self.lanes} x i32> zeroinitializer"
        return w.emit(f"shufflevector {self.vector} {one}, {self.vector} poison, {order}")

    def multiply_add(self, w: LoopWriter, a: str, b: str, c: str) -> str:
        """a * b + c, fused where that is an instruction (elsewhere it would be a libm call)."""
        v = self.vector
        if self.pairs:
            kind, call = f"<{2 * self.lanes} x bfloat>", "@llvm.x86.avx512bf16.dpbf16ps.512"
            a, b = (w.emit(f"bitcast {v} {x} to {kind}") for x in (a, b))
            return w.emit(f"call {v} {call}({v} {c}, {kind} {a}, {kind} {b})")
        if self.fma:
            return w.emit(f"call {v} @llvm.fma.{self.suffix}({v} {a}, {v} {b}, {v} {c})")
        return w.emit(f"fadd {v} {w.emit(f'fmul {v} {a}, {b}')}, {c}")

    def load(self, w: LoopWriter, address: str, mask: str | None = None) -> str:
        if mask is None:
            return w.emit(f"load {self.vector}, ptr {address}, align {self.size}")
        return w.emit(
            f"call {self.vector} @llvm.masked.load.{self.suffix}.p0(ptr {address}, "
            f"i32 {self.size}, <{self.lanes} x i1> {mask}, {self.vector} zeroinitializer)"
        )

    def store(self, w: LoopWriter, value: str, address: str, mask: str | None = None) -> None:
        if mask is None:
            w.do(f"store {self.vector} {value}, ptr {address}, align {self.size}")
        else:
            w.do(
                f"call void @llvm.masked.store.{self.suffix}.p0({self.vector} {value}, "
                f"ptr {address}, i32 {self.size}, <{self.lanes} x i1> {mask})"
            )

    def mask(self, w: LoopWriter, live: str) -> str:
        """The first `live` lanes (an i64), as <lanes x i1>."""
        integers = f"<{self.lanes} x i{8 * self.size}>"
        kind = f"i{8 * self.size}"
        count = live if kind == "i64" else w.emit(f"trunc i64 {live} to {kind}")
        one = w.emit(f"insertelement {integers} poison, {kind} {count}, i64 0")
        order = f"<{self.lanes} x i32> zeroinitializer"
        limit = w.emit(f"shufflevector {integers} {one}, {integers} poison, {order}")
        steps = ", ".join(f"{kind} {i}" for i in range(self.lanes))
        return w.emit(f"icmp ult {integers} <{steps}>, {limit}")


def element(dtype: DType, host: Host) -> Element:
    """Raises TypeError unless `dtype` is float32 or float64."""
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise TypeError(f"contraction: {dtype} has no vector kernel; cast to float32 or float64")
    kind = "float" if dtype.itemsize == 4 else "double"
    return Element(kind, host.vector_bytes // dtype.itemsize, dtype.itemsize, host.fma)
