"""Generated code of the native entry, first part: arguments and states into the table.

`entry_text` says what holds for all of it.
"""

from __future__ import annotations

from ..spec import float32, float64, int64
from .entry_records import WEAK, Api, Call, Slot, element, field, get, put
from .layout import ALIGNED, CONTIGUOUS, OWNS_DATA, WRITEABLE, Array, Descr, Float, Object

_FITS = f"""
; the ndarray at %at, or in the tensor there, if it is what %slot says, else null
define ptr @fitting(ptr %at, ptr %slot, ptr %api) {{
  %object = load ptr, ptr %at
  {get("%type", Object, "%object", "type")}
  {get("%tensor", Api, "%api", "tensor")}
  {get("%offset", Api, "%api", "tensor_slot")}
  {get("%ndarray", Api, "%api", "ndarray")}
  %distance = ptrtoint ptr %offset to i64
  %inside = getelementptr i8, ptr %object, i64 %distance
  %wrapped = icmp eq ptr %type, %tensor
  %value.at = select i1 %wrapped, ptr %inside, ptr %at
  %value = load ptr, ptr %value.at
  %empty = icmp eq ptr %value, null  ; as a donated tensor is: no ndarray
  %array = select i1 %empty, ptr %object, ptr %value
  {get("%class", Object, "%array", "type")}
  %exact = icmp eq ptr %class, %ndarray
  br i1 %exact, label %geometry, label %no
geometry:
  {get("%flags", Array, "%array", "flags")}
  {get("%ndim", Array, "%array", "ndim")}
  {get("%want.ndim", Slot, "%slot", "ndim")}
  {get("%descr", Array, "%array", "descr")}
  {get("%want.descr", Slot, "%slot", "descr")}
  %needed = and i32 %flags, {CONTIGUOUS | ALIGNED}
  %dense = icmp eq i32 %needed, {CONTIGUOUS | ALIGNED}
  %same.ndim = icmp eq i32 %ndim, %want.ndim
  %same.descr = icmp eq ptr %descr, %want.descr
  %shaped = and i1 %dense, %same.ndim
  %so.far = and i1 %shaped, %same.descr
  br i1 %so.far, label %axes, label %unsure
unsure:
  %same.dtype = call i1 @equal(ptr %descr, ptr %slot)
  %likely = and i1 %shaped, %same.dtype
  br i1 %likely, label %axes, label %no
axes:
  {get("%dims", Array, "%array", "dims")}
  {get("%want.dims", Slot, "%slot", "dims")}
  br label %head
head:
  %k = phi i32 [ %ndim, %axes ], [ %k.next, %axis ]
  %done = icmp eq i32 %k, 0
  br i1 %done, label %yes, label %axis
axis:
  %k.next = sub i32 %k, 1
  %dim.at = getelementptr i64, ptr %dims, i32 %k.next
  %dim = load i64, ptr %dim.at
  %want.dim.at = getelementptr i64, ptr %want.dims, i32 %k.next
  %want.dim = load i64, ptr %want.dim.at
  %same.dim = icmp eq i64 %dim, %want.dim
  br i1 %same.dim, label %head, label %no
yes:
  ret ptr %array
no:
  ret ptr null
}}

; whether %descr, which is not the dtype object of %slot, is the same dtype
define internal i1 @equal(ptr %descr, ptr %slot) {{
  {get("%num", Descr, "%descr", "type_num")}
  {get("%want.num", Slot, "%slot", "type_num")}
  {get("%order", Descr, "%descr", "byteorder")}
  %same.num = icmp eq i32 %num, %want.num
  %native = icmp eq i8 %order, {ord("=")}
  %orderless = icmp eq i8 %order, {ord("|")}
  %readable = or i1 %native, %orderless
  %usable = and i1 %same.num, %readable
  ret i1 %usable
}}
"""

_NUMBER = f"""
; stores the Python number %object in %slot as its mode says; false if it is not such a number
define internal i1 @number(ptr %object, ptr %slot, i64 %mode, ptr %call, ptr %api) {{
  {get("%type", Object, "%object", "type")}
  %place = {field(Slot, "%slot", "place")}
  %floating = icmp ule i64 %mode, {WEAK[float32]}
  br i1 %floating, label %float, label %int
float:
  {get("%float.type", Api, "%api", "float")}
  %is.float = icmp eq ptr %type, %float.type
  br i1 %is.float, label %double, label %no
double:
  %value.at = {field(Float, "%object", "value")}
  %value = load double, ptr %value.at
  %wide = icmp eq i64 %mode, {WEAK[float64]}
  br i1 %wide, label %store.double, label %store.single
store.double:
  store double %value, ptr %place
  ret i1 true
store.single:
  %single = fptrunc double %value to float
  store float %single, ptr %place
  ret i1 true
int:
  {get("%int.type", Api, "%api", "int")}
  %is.int = icmp eq ptr %type, %int.type
  br i1 %is.int, label %long, label %no
long:
  {get("%as_long", Api, "%api", "as_long")}
  %overflow.at = {field(Call, "%call", "overflow")}
  %whole = call i64 %as_long(ptr %object, ptr %overflow.at)
  %overflow = load i32, ptr %overflow.at
  %held = icmp eq i32 %overflow, 0
  br i1 %held, label %width, label %no
width:
  %is.wide = icmp eq i64 %mode, {WEAK[int64]}
  %half = trunc i64 %whole to i32
  %back = sext i32 %half to i64
  %narrow = icmp eq i64 %back, %whole
  %fits = or i1 %is.wide, %narrow
  br i1 %fits, label %store.whole, label %no
store.whole:
  store i64 %whole, ptr %place  ; little-endian: its low half is the int32
  ret i1 true
no:
  ret i1 false
}}
"""

_INPUTS = f"""
define internal i1 @bind_inputs(ptr %call, ptr %args, ptr %api) {{
  {get("%count", Call, "%call", "input_count")}
  {get("%slots", Call, "%call", "inputs")}
  {get("%table", Call, "%call", "table")}
  br label %head
head:
  %i = phi i64 [ 0, %0 ], [ %i.own, %own ], [ %i.data, %data ], [ %i.weak, %weak ]
  %done = icmp eq i64 %i, %count
  br i1 %done, label %yes, label %body
body:
  {element("%slot", "%slots", "%i")}
  %arg.at = getelementptr ptr, ptr %args, i64 %i
  %entry.at = getelementptr ptr, ptr %table, i64 %i
  {get("%mode", Slot, "%slot", "mode")}
  %array = icmp eq i64 %mode, 0
  br i1 %array, label %strong, label %weak
strong:
  %found = call ptr @fitting(ptr %arg.at, ptr %slot, ptr %api)
  %unfit = icmp eq ptr %found, null
  br i1 %unfit, label %no, label %data
data:
  {get("%pointer", Array, "%found", "data")}
  store ptr %pointer, ptr %entry.at
  {get("%hold", Call, "%call", "hold")}
  %borrowed = icmp eq i64 %hold, 0
  %i.data = add i64 %i, 1
  br i1 %borrowed, label %head, label %own
own:
  {get("%incref", Api, "%api", "incref")}
  call void %incref(ptr %found)
  {put(Slot, "%slot", "held", "%found")}
  %i.own = add i64 %i, 1
  br label %head
weak:
  %place = {field(Slot, "%slot", "place")}
  store ptr %place, ptr %entry.at
  %arg = load ptr, ptr %arg.at
  %stored = call i1 @number(ptr %arg, ptr %slot, i64 %mode, ptr %call, ptr %api)
  %i.weak = add i64 %i, 1
  br i1 %stored, label %head, label %no
yes:
  ret i1 true
no:
  ret i1 false
}}
"""

_OWN = f"""\
  {get("%tensor.count", Object, "%tensor", "refcount")}
  {get("%array.count", Object, "%array", "refcount")}
  {get("%flags", Array, "%array", "flags")}
  %kept = and i32 %flags, {OWNS_DATA | WRITEABLE}
  %own.tensor = icmp eq i32 %tensor.count, 1
  %own.array = icmp eq i32 %array.count, 1
  %own.data = icmp eq i32 %kept, {OWNS_DATA | WRITEABLE}
  %own.both = and i1 %own.tensor, %own.array
  %own = and i1 %own.both, %own.data"""
# nobody but the variable holds %tensor and its %array, which may be written into

_ALL_STATES = f"""\
  {get("%count", Call, "%call", "state_count")}
  {get("%slots", Call, "%call", "states")}
  {get("%start", Call, "%call", "table")}
  {get("%offset", Call, "%call", "input_count")}"""

_FITTING = f"""\
  {element("%slot", "%slots", "%i")}
  {get("%tensor.at", Slot, "%slot", "place")}
  %tensor = load ptr, ptr %tensor.at
  %unset = icmp eq ptr %tensor, null
  br i1 %unset, label %no, label %set
set:
  %array = call ptr @fitting(ptr %tensor.at, ptr %slot, ptr %api)
  %unfit = icmp eq ptr %array, null
  br i1 %unfit, label %no, label %fits
fits:"""
# the %array of state %i if that fits, else on to `no`

_BORROW = f"""
; states as they are, where no other code runs before the executable has; false if one does not
; fit, or is written and its variable is not the only one to hold it
define i1 @borrow_states(ptr %call, ptr %api) {{
{_ALL_STATES}
  %table = getelementptr ptr, ptr %start, i64 %offset
  br label %head
head:
  %i = phi i64 [ 0, %0 ], [ %i.next, %store ]
  %done = icmp eq i64 %i, %count
  br i1 %done, label %yes, label %body
body:
{_FITTING}
{_OWN}
  {get("%written", Slot, "%slot", "mode")}
  %read.only = icmp eq i64 %written, 0
  %usable = or i1 %read.only, %own
  br i1 %usable, label %store, label %no
store:
  {get("%data", Array, "%array", "data")}
  %entry.at = getelementptr ptr, ptr %table, i64 %i
  store ptr %data, ptr %entry.at
  %i.next = add i64 %i, 1
  br label %head
yes:
  ret i1 true
no:
  ret i1 false
}}

"""

_STATES = f"""
; states with references to their arrays: 0, or 1 when one does not fit, or 2 with an exception set
define internal i32 @hold_states(ptr %call, ptr %api) {{
{_ALL_STATES}
  {get("%incref", Api, "%api", "incref")}
  %table = getelementptr ptr, ptr %start, i64 %offset
  br label %head
head:
  %i = phi i64 [ 0, %0 ], [ %i.next, %bind ]
  %i.next = add i64 %i, 1
  %done = icmp eq i64 %i, %count
  br i1 %done, label %bound, label %body
body:
{_FITTING}
  {get("%written", Slot, "%slot", "mode")}
  %read.only = icmp eq i64 %written, 0
  br i1 %read.only, label %hold, label %shared
shared:
{_OWN}
  br i1 %own, label %hold, label %replace
replace:
  %copy = call ptr @detach(ptr %tensor.at, ptr %array, ptr %api)
  %failed = icmp eq ptr %copy, null
  br i1 %failed, label %error, label %bind
hold:
  call void %incref(ptr %array)
  br label %bind
bind:
  %use = phi ptr [ %array, %hold ], [ %copy, %replace ]
  {get("%data", Array, "%use", "data")}
  %entry.at = getelementptr ptr, ptr %table, i64 %i
  store ptr %data, ptr %entry.at
  {put(Slot, "%slot", "held", "%use")}
  br label %head
bound:
  ret i32 0
no:
  ret i32 1
error:
  ret i32 2
}}

; gives the variable a copy of its value that nobody else holds, and the caller a reference to
; the copy; null with an exception set
define internal ptr @detach(ptr %tensor.at, ptr %array, ptr %api) {{
  {get("%copy_array", Api, "%api", "copy_array")}
  %copy = call ptr %copy_array(ptr %array, i32 0)
  %failed = icmp eq ptr %copy, null
  br i1 %failed, label %error, label %wrap
wrap:
  %tensor = call ptr @wrapped(ptr %copy, ptr %api)
  %unwrapped = icmp eq ptr %tensor, null
  br i1 %unwrapped, label %error, label %swap
swap:
  {get("%incref", Api, "%api", "incref")}
  {get("%decref", Api, "%api", "decref")}
  call void %incref(ptr %copy)
  %old = load ptr, ptr %tensor.at
  store ptr %tensor, ptr %tensor.at
  call void %decref(ptr %old)
  ret ptr %copy
error:
  ret ptr null
}}
"""

WRAPPED = f"""
; a new tensor that takes over the reference to %array; null with an exception set
define internal ptr @wrapped(ptr %array, ptr %api) {{
  {get("%alloc", Api, "%api", "alloc")}
  {get("%class", Api, "%api", "tensor")}
  %tensor = call ptr %alloc(ptr %class, i64 0)
  %failed = icmp eq ptr %tensor, null
  br i1 %failed, label %drop, label %fill
fill:
  {get("%offset", Api, "%api", "tensor_slot")}
  %distance = ptrtoint ptr %offset to i64
  %value.at = getelementptr i8, ptr %tensor, i64 %distance
  store ptr %array, ptr %value.at
  ret ptr %tensor
drop:
  {get("%decref", Api, "%api", "decref")}
  call void %decref(ptr %array)
  ret ptr null
}}
"""

CHECKS = _FITS + _BORROW
BIND = _NUMBER + _INPUTS + _STATES + WRAPPED
