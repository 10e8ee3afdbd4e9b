"""Generated code of the native entry, last part: tensors for the outputs, and what the call gives.

`entry_text` says what holds for all of it.
"""

from __future__ import annotations

from .entry_records import Api, Call, Slot, element, field, get, put
from .layout import ALIGNED, CONTIGUOUS, OWNS_DATA, WRITEABLE, Array, Object

_OWN = CONTIGUOUS | ALIGNED | OWNS_DATA | WRITEABLE

RESULTS = f"""
; whether only its pool holds %tensor, and nobody else its array or the memory of that
define internal i1 @reusable(ptr %tensor, ptr %api) {{
  {get("%count", Object, "%tensor", "refcount")}
  {get("%type", Object, "%tensor", "type")}
  {get("%class", Api, "%api", "tensor")}
  {get("%ndarray", Api, "%api", "ndarray")}
  {get("%offset", Api, "%api", "tensor_slot")}
  %own = icmp eq i32 %count, 1
  %is.tensor = icmp eq ptr %type, %class
  %free = and i1 %own, %is.tensor
  br i1 %free, label %typed, label %no
typed:
  %distance = ptrtoint ptr %offset to i64
  %value.at = getelementptr i8, ptr %tensor, i64 %distance
  %array = load ptr, ptr %value.at
  %empty = icmp eq ptr %array, null
  br i1 %empty, label %no, label %full
full:
  {get("%class.inside", Object, "%array", "type")}
  {get("%holders", Object, "%array", "refcount")}
  {get("%weakrefs", Array, "%array", "weakrefs")}
  {get("%flags", Array, "%array", "flags")}
  %is.array = icmp eq ptr %class.inside, %ndarray
  %sole = icmp eq i32 %holders, 1
  %unwatched = icmp eq ptr %weakrefs, null
  %needed = and i32 %flags, {_OWN}
  %memory = icmp eq i32 %needed, {_OWN}
  %one = and i1 %is.array, %sole
  %two = and i1 %unwatched, %memory
  %all = and i1 %one, %two
  ret i1 %all
no:
  ret i1 false
}}

; a tensor to store an output in: one of the two latest, or a new one; null with an exception set
define internal ptr @room(ptr %slot, ptr %api) {{
  {get("%pool", Slot, "%slot", "pool")}
  {get("%latest", Slot, "%slot", "latest")}
  %alone = icmp eq ptr %pool, null
  br i1 %alone, label %single, label %later
single:
  %unkept = call ptr @new(ptr %slot, ptr %api)
  ret ptr %unkept
later:
  %later.at = getelementptr ptr, ptr %pool, i64 %latest
  %later.tensor = load ptr, ptr %later.at
  %later.free = call i1 @reusable(ptr %later.tensor, ptr %api)
  br i1 %later.free, label %again, label %earlier
again:
  store i32 2, ptr %later.tensor  ; the reference count
  ret ptr %later.tensor
earlier:
  %other = xor i64 %latest, 1
  {put(Slot, "%slot", "latest", "%other")}
  %other.at = getelementptr ptr, ptr %pool, i64 %other
  %other.tensor = load ptr, ptr %other.at
  %other.free = call i1 @reusable(ptr %other.tensor, ptr %api)
  br i1 %other.free, label %alternate, label %replace
alternate:
  store i32 2, ptr %other.tensor
  ret ptr %other.tensor
replace:
  %tensor = call ptr @new(ptr %slot, ptr %api)
  %failed = icmp eq ptr %tensor, null
  br i1 %failed, label %end, label %keep
keep:
  {get("%incref", Api, "%api", "incref")}
  {get("%decref", Api, "%api", "decref")}
  %old = load ptr, ptr %other.at
  call void %incref(ptr %tensor)
  store ptr %tensor, ptr %other.at
  call void %decref(ptr %old)
  br label %end
end:
  ret ptr %tensor
}}

; a new tensor for an output; null with an exception set
define internal ptr @new(ptr %slot, ptr %api) {{
  {get("%incref", Api, "%api", "incref")}
  {get("%new_result", Api, "%api", "new_result")}
  {get("%ndarray", Api, "%api", "ndarray")}
  {get("%descr", Slot, "%slot", "descr")}
  {get("%ndim", Slot, "%slot", "ndim")}
  {get("%dims", Slot, "%slot", "dims")}
  call void %incref(ptr %descr)  ; new_result takes the reference
  %array = call ptr %new_result(ptr %ndarray, ptr %descr, i32 %ndim, ptr %dims, ptr null,
                                ptr null, i32 0, ptr null)
  %failed = icmp eq ptr %array, null
  br i1 %failed, label %no, label %wrap
wrap:
  %tensor = call ptr @wrapped(ptr %array, ptr %api)
  ret ptr %tensor
no:
  ret ptr null
}}

; false with an exception set
define internal i1 @make_outputs(ptr %call, ptr %api) {{
  {get("%count", Call, "%call", "output_count")}
  {get("%slots", Call, "%call", "outputs")}
  {get("%start", Call, "%call", "table")}
  {get("%inputs", Call, "%call", "input_count")}
  {get("%states", Call, "%call", "state_count")}
  {get("%offset", Api, "%api", "tensor_slot")}
  %distance = ptrtoint ptr %offset to i64
  %first = add i64 %inputs, %states
  %table = getelementptr ptr, ptr %start, i64 %first
  br label %head
head:
  %i = phi i64 [ 0, %0 ], [ %i.next, %store ]
  %done = icmp eq i64 %i, %count
  br i1 %done, label %yes, label %body
body:
  {element("%slot", "%slots", "%i")}
  %tensor = call ptr @room(ptr %slot, ptr %api)
  %failed = icmp eq ptr %tensor, null
  br i1 %failed, label %no, label %store
store:
  {put(Slot, "%slot", "held", "%tensor")}
  %array.at = getelementptr i8, ptr %tensor, i64 %distance
  %array = load ptr, ptr %array.at
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

; drops the references that slots hold
define internal void @release(ptr %slots, i64 %count, ptr %api) {{
  {get("%decref", Api, "%api", "decref")}
  br label %head
head:
  %i = phi i64 [ 0, %0 ], [ %i.next, %body ]
  %i.next = add i64 %i, 1
  %done = icmp eq i64 %i, %count
  br i1 %done, label %end, label %body
body:
  {element("%slot", "%slots", "%i")}
  {get("%held", Slot, "%slot", "held")}
  {put(Slot, "%slot", "held", "null")}
  call void %decref(ptr %held)  ; accepts null
  br label %head
end:
  ret void
}}

define internal void @release_states(ptr %call, ptr %api) {{
  {get("%slots", Call, "%call", "states")}
  {get("%count", Call, "%call", "state_count")}
  call void @release(ptr %slots, i64 %count, ptr %api)
  ret void
}}

define internal void @release_outputs(ptr %call, ptr %api) {{
  {get("%slots", Call, "%call", "outputs")}
  {get("%count", Call, "%call", "output_count")}
  call void @release(ptr %slots, i64 %count, ptr %api)
  ret void
}}

; the outputs as one tensor, a tuple of them or None; null with an exception set
define internal ptr @results(ptr %call, ptr %api) {{
  {get("%count", Call, "%call", "output_count")}
  {get("%slots", Call, "%call", "outputs")}
  {get("%tuple", Call, "%call", "tuple")}
  %one = icmp eq i32 %tuple, 0
  br i1 %one, label %single, label %several
single:
  %nothing = icmp eq i64 %count, 0
  br i1 %nothing, label %none, label %first
none:
  {get("%none.object", Api, "%api", "none")}
  {get("%incref", Api, "%api", "incref")}
  call void %incref(ptr %none.object)
  ret ptr %none.object
first:
  {get("%tensor", Slot, "%slots", "held")}
  %first.held = {field(Slot, "%slots", "held")}
  store ptr null, ptr %first.held
  ret ptr %tensor
several:
  {get("%new_tuple", Api, "%api", "new_tuple")}
  {get("%set_item", Api, "%api", "set_item")}
  %result = call ptr %new_tuple(i64 %count)
  %failed = icmp eq ptr %result, null
  br i1 %failed, label %end, label %head
head:
  %i = phi i64 [ 0, %several ], [ %i.next, %body ]
  %i.next = add i64 %i, 1
  %done = icmp eq i64 %i, %count
  br i1 %done, label %end, label %body
body:
  {element("%slot", "%slots", "%i")}
  {get("%item", Slot, "%slot", "held")}
  {put(Slot, "%slot", "held", "null")}
  %set = call i32 %set_item(ptr %result, i64 %i, ptr %item)  ; takes the reference
  br label %head
end:
  ret ptr %result
}}
"""
