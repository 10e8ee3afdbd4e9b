"""What the generated code of eager ops is written with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import Structure

from ..emit.writer import LoopWriter
from .eager_records import DTYPES, Given
from .entry_records import Api, field, llvm_type
from .layout import ALIGNED, CONTIGUOUS, Array, Descr, Object


class Code(LoopWriter):
    """The body of a function that leaves by label "no" where something does not suit it."""

    def get(self, structure: type[Structure], pointer: str, name: str) -> str:
        """`pointer->name`"""
        place = self.emit(field(structure, pointer, name))
        return self.emit(f"load {llvm_type(structure, name)}, ptr {place}")

    def put(self, structure: type[Structure], pointer: str, name: str, value: str | int) -> None:
        """`pointer->name = value`"""
        place = self.emit(field(structure, pointer, name))
        self.do(f"store {llvm_type(structure, name)} {value}, ptr {place}")

    def item(
        self, structure: type[Structure], pointer: str, name: str, kind: str, index: str | int
    ) -> str:
        """`&pointer->name[index]`"""
        return self.at(self.emit(field(structure, pointer, name)), kind, index)

    def read(self, kind: str, place: str) -> str:
        return self.emit(f"load {kind}, ptr {place}")

    def is_(self, relation: str, a: str, b: str | int, kind: str = "i64") -> str:
        return self.emit(f"icmp {relation} {kind} {a}, {b}")

    def unless(self, condition: str, label: str = "no") -> None:
        """Go to `label` where the i1 `condition` does not hold."""
        on = self.name("on")
        self.do(f"br i1 {condition}, label %{on}, label %{label}")
        self.block(on)

    @contextmanager
    def range(self, start: str | int, stop: str | int) -> Iterator[str]:
        """`loop`, also where there is nothing to do."""
        with self.when(self.is_("ult", str(start), stop)), self.loop(start, stop) as index:
            yield index

    def choose(self, condition: str, a: str | int, b: str | int) -> str:
        return self.emit(f"select i1 {condition}, i64 {a}, i64 {b}")

    def offset(self, api: str, name: str) -> str:
        """An offset in objects that `api` gives."""
        return self.emit(f"ptrtoint ptr {self.get(Api, api, name)} to i64")

    def note_arguments(self, job: str) -> None:
        """Note in `job` what the builtin was given."""
        self.put(Given, job, "arguments", "%args")
        self.put(Given, job, "number", "%count")

    def run_chunks(self, run: str, chunks: str, work: str) -> None:
        """Return after `run(%job, chunk)` for all chunks: one here, more by the threads of the
        pool, without the GIL. Other code may take the values of tensors and variables away
        meanwhile, so their arrays are held."""
        one, many = self.name("one"), self.name("many")
        self.do(f"br i1 {self.is_('eq', chunks, 1)}, label %{one}, label %{many}")
        self.block(one)
        self.do(f"call void {run}(ptr %job, i64 0)")
        self.do("ret void")
        self.block(many)
        number = self.get(Given, "%job", "number")
        held = self.emit(f"alloca ptr, i64 {number}")
        self.do(f"call void @hold(ptr %job, ptr {held}, ptr %api)")
        gil = self.emit(f"call ptr {self.get(Api, '%api', 'release_gil')}()")
        self.do(f"call void @dm_pool_run(ptr {run}, ptr %job, i64 {chunks}, i64 {work})")
        self.do(f"call void {self.get(Api, '%api', 'take_gil')}(ptr {gil})")
        with self.range(0, number) as k:
            array = self.read("ptr", self.at(held, "ptr", k))
            self.do(f"call void {self.get(Api, '%api', 'decref')}(ptr {array})")
        self.do("ret void")

    def new_array(self, structure: type[Structure], job: str, descr: str, api: str) -> str:
        """An array of the shape that `job` has; null with an exception set. The memory of large
        ones goes round (`reused`)."""
        ndim = self.emit(f"trunc i64 {self.get(structure, job, 'ndim')} to i32")
        return self.new_array_of(ndim, self.emit(field(structure, job, "shape")), descr, api)

    def new_array_of(self, ndim: str, shape: str, descr: str, api: str) -> str:
        """An array of so many axes, whose sizes are at `shape`; as `new_array`."""
        self.do(f"call void {self.get(Api, api, 'incref')}(ptr {descr})  ; the array takes it")
        new, ndarray = self.get(Api, api, "new_result"), self.get(Api, api, "ndarray")
        return self.emit(
            f"call ptr {new}(ptr {ndarray}, ptr {descr}, i32 {ndim}, ptr {shape}, ptr null, "
            "ptr null, i32 0, ptr null)"
        )

    def otherwise(self, structure: type[Structure], op: str, api: str) -> None:
        """The block "make", in which the `make` of `op` answers the call; and the block "no"."""
        self.block("make")
        call, make = self.get(structure, op, "vectorcall"), self.get(structure, op, "make")
        made = self.emit(f"call ptr {call}(ptr {make}, ptr %args, i64 %count, ptr null)")
        self.do(f"ret ptr {made}")
        self.miss(api)

    def miss(self, api: str) -> None:
        """The block "no": the call is for others."""
        self.block("no")
        miss = self.get(Api, api, "miss")
        self.do(f"call void {self.get(Api, api, 'incref')}(ptr {miss})")
        self.do(f"ret ptr {miss}")


def function(head: str, body: Callable[[Code], None], end: str = "") -> str:
    """The text of a function; `end` is its block "no"."""
    w = Code()
    body(w)
    return "\n".join([f"define {head} {{", "entry:", *w.lines, end, "}", ""])


def all_suits(body: Callable[[Code], None], name: str, arguments: str) -> str:
    """A function that says whether all suits it."""
    return function(f"internal i1 @{name}({arguments})", body, "no:\n  ret i1 false")


def native(w: Code, descr: str) -> str:
    """Whether elements of this dtype are in native byte order."""
    order = w.get(Descr, descr, "byteorder")
    swapped = w.is_("eq", order, ord("="), "i8")
    return w.emit(f"or i1 {swapped}, {w.is_('eq', order, ord('|'), 'i8')}")


def over(w: Code, a: str, b: str) -> str:
    """a / b rounded up."""
    return w.op("udiv", w.op("add", a, w.op("sub", b, 1)), b)


def type_number(w: Code, array: str) -> str:
    """The type number of an array."""
    number = w.get(Descr, w.get(Array, array, "descr"), "type_num")
    return w.emit(f"zext i32 {number} to i64")


def rank(w: Code, array: str) -> str:
    """The number of axes of an array."""
    return w.emit(f"sext i32 {w.get(Array, array, 'ndim')} to i64")


def _array(w: Code, dtypes: int) -> None:
    """The array of a tensor if it is contiguous and of a known dtype in native byte order."""
    kind = w.get(Object, "%tensor", "type")
    w.unless(w.is_("eq", kind, w.get(Api, "%api", "tensor"), "ptr"))
    array = w.read("ptr", w.at("%tensor", "i8", w.offset("%api", "tensor_slot")))
    w.unless(w.is_("ne", array, "null", "ptr"))
    ndarray = w.get(Api, "%api", "ndarray")
    w.unless(w.is_("eq", w.get(Object, array, "type"), ndarray, "ptr"))
    wanted = CONTIGUOUS | ALIGNED
    flags = w.emit(f"and i32 {w.get(Array, array, 'flags')}, {wanted}")
    w.unless(w.is_("eq", flags, wanted, "i32"))
    descr = w.get(Array, array, "descr")
    w.unless(w.is_("ult", w.get(Descr, descr, "type_num"), dtypes, "i32"))
    w.unless(native(w, descr))
    w.do(f"ret ptr {array}")


def array_function(dtypes: int = DTYPES) -> str:
    """The function that gives the array of a tensor, or null; of type numbers below `dtypes`."""
    head = "internal ptr @array(ptr %tensor, ptr %api)"
    return function(head, lambda w: _array(w, dtypes), "no:\n  ret ptr null")


ARRAY = array_function()


def _hold(w: Code) -> None:
    """Take references to the arrays of the call's arguments; null for those that have none."""
    arguments = w.get(Given, "%job", "arguments")
    tensor, variable = (w.get(Api, "%api", name) for name in ("tensor", "variable"))
    holder = w.emit("alloca ptr")
    with w.range(0, w.get(Given, "%job", "number")) as k:
        argument, place = w.read("ptr", w.at(arguments, "ptr", k)), w.at("%held", "ptr", k)
        kind = w.get(Object, argument, "type")
        w.do(f"store ptr null, ptr {place}")
        w.do(f"store ptr {argument}, ptr {holder}")
        is_variable = w.is_("eq", kind, variable, "ptr")
        with w.when(is_variable):
            value = w.read("ptr", w.at(argument, "i8", w.offset("%api", "variable_slot")))
            w.do(f"store ptr {value}, ptr {holder}")
        with w.when(w.emit(f"or i1 {is_variable}, {w.is_('eq', kind, tensor, 'ptr')}")):
            value = w.read("ptr", holder)
            array = w.read("ptr", w.at(value, "i8", w.offset("%api", "tensor_slot")))
            w.do(f"store ptr {array}, ptr {place}")
            w.do(f"call void {w.get(Api, '%api', 'incref')}(ptr {array})")
    w.do("ret void")


HOLD = function("internal void @hold(ptr %job, ptr %held, ptr %api)", _hold)
