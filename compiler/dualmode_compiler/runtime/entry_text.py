"""The generated code of the native entry: a builtin function that checks its arguments, runs an
executable and wraps its results, without executing any Python.

One function serves every entry. It is generated once per process; what differs between entries is
in a `Call` record, which the builtin finds through its `self`. Interpreter and NumPy functions are
reached through the `Api` table, so the code itself contains no address and can be kept on disk.

Most of it is compiled without optimization, which would take five times as long, so it is written
such that it is fast as it stands: what lies on the usual way is in few blocks, and all else out of
it. `CHECKS` is optimized: it goes over each argument and variable of a call.

Ownership, which the code below must keep on every path:

- arguments are borrowed: the caller holds them for the whole call; the arrays in tensors are held
  as well where other code may run meanwhile, for that may donate a tensor, which empties it;
- so is a state's array, from `hold_states` to `release_states`: another thread or a callback may
  give the variable a new value while the executable runs. Where there can be none, `borrow_states`
  leaves it to the variable;
- an output is owned by its record from `make_outputs` until it is returned or dropped.
"""

from __future__ import annotations

from .entry_bind import BIND, CHECKS
from .entry_records import Api, Arena, Call, Slot, element, field, get, put
from .entry_route import ROUTE
from .jit import QUICK
from .layout import ALIGNED, CONTIGUOUS, OWNS_DATA, WRITEABLE, Array, Boxed, Object

OWN = CONTIGUOUS | ALIGNED | OWNS_DATA | WRITEABLE

_OUTPUTS = f"""
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
  %needed = and i32 %flags, {OWN}
  %memory = icmp eq i32 %needed, {OWN}
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

_CALL = f"""
define internal i32 @execute(ptr %call, ptr %api) {{
  {get("%run", Call, "%call", "run")}
  {get("%table", Call, "%call", "table")}
  {get("%releases", Call, "%call", "release_gil")}
  %holds = icmp eq i32 %releases, 0
  br i1 %holds, label %held, label %free
held:
  %code = call i32 %run(ptr %table)
  ret i32 %code
free:
  {get("%release_gil", Api, "%api", "release_gil")}
  {get("%take_gil", Api, "%api", "take_gil")}
  %state = call ptr %release_gil()
  %code.free = call i32 %run(ptr %table)
  call void %take_gil(ptr %state)
  ret i32 %code.free
}}

; raises through the entry's `fail`; it always returns null
define internal ptr @raise(ptr %call, i32 %code, ptr %api) {{
  {get("%from_long", Api, "%api", "from_long")}
  {get("%call_one", Api, "%api", "call")}
  {get("%fail", Call, "%call", "fail")}
  {get("%decref", Api, "%api", "decref")}
  %long = sext i32 %code to i64
  %number = call ptr %from_long(i64 %long)
  %none = icmp eq ptr %number, null
  br i1 %none, label %end, label %tell
tell:
  %result = call ptr %call_one(ptr %fail, ptr %number)
  call void %decref(ptr %number)
  br label %end
end:
  ret ptr null
}}

; takes the entry for thread %me; returns the thread that has it already, else 0
define i64 @acquire(ptr %call, i64 %me) {{
  %owner.at = {field(Call, "%call", "owner")}
  %pair = cmpxchg ptr %owner.at, i64 0, i64 %me seq_cst seq_cst
  %owner = extractvalue {{ i64, i1 }} %pair, 0
  ret i64 %owner
}}

; takes the scratch memory that entries share; false if it is in use
define internal i1 @take_arena(ptr %call, ptr %arena, i64 %me) {{
  {get("%owner", Arena, "%arena", "owner")}
  {get("%base", Arena, "%arena", "base")}
  {get("%scratch", Call, "%call", "scratch")}
  %free = icmp eq i64 %owner, 0
  br i1 %free, label %take, label %end
take:
  store i64 %me, ptr %owner.at  ; no race: the GIL is held
  store ptr %base, ptr %scratch
  br label %end
end:
  ret i1 %free
}}

; gives back inputs, the shared memory and the entry
define internal void @leave(ptr %call) {{
  {get("%hold", Call, "%call", "hold")}
  {get("%arena", Call, "%call", "arena")}
  %borrowed = icmp eq i64 %hold, 0
  br i1 %borrowed, label %memory, label %held
held:
  {get("%slots", Call, "%call", "inputs")}
  {get("%count", Call, "%call", "input_count")}
  {get("%api", Call, "%call", "api")}
  call void @release(ptr %slots, i64 %count, ptr %api)
  br label %memory
memory:
  %own = icmp eq ptr %arena, null
  br i1 %own, label %end, label %give
give:
  %user.at = {field(Arena, "%arena", "owner")}
  store i64 0, ptr %user.at
  br label %end
end:
  %owner.at = {field(Call, "%call", "owner")}
  store i64 0, ptr %owner.at
  ret void
}}

define ptr @call(ptr %self, ptr %args, i64 %count) {{
  {get("%call", Boxed, "%self", "data")}
  %result = call ptr @enter(ptr %call, ptr %args, i64 %count)
  ret ptr %result
}}

define internal ptr @enter(ptr %call, ptr %args, i64 %count) {{
  {get("%api", Call, "%call", "api")}
  {get("%want", Call, "%call", "input_count")}
  {get("%owner", Call, "%call", "owner")}
  {get("%thread", Api, "%api", "thread")}
  %fits = icmp eq i64 %count, %want
  %free = icmp eq i64 %owner, 0
  %go = and i1 %fits, %free
  br i1 %go, label %take, label %miss
take:
  %me = call i64 %thread()
  {get("%arena", Call, "%call", "arena")}
  %private = icmp eq ptr %arena, null
  br i1 %private, label %inputs, label %share
share:
  %taken = call i1 @take_arena(ptr %call, ptr %arena, i64 %me)
  br i1 %taken, label %inputs, label %miss
inputs:
  store i64 %me, ptr %owner.at  ; no race: the GIL is held
  %bound = call i1 @bind_inputs(ptr %call, ptr %args, ptr %api)
  br i1 %bound, label %output, label %leave
leave:
  call void @leave(ptr %call)
  br label %miss
miss:
  {get("%missed", Api, "%api", "miss")}
  {get("%incref", Api, "%api", "incref")}
  call void %incref(ptr %missed)
  ret ptr %missed
output:
  %made = call i1 @make_outputs(ptr %call, ptr %api)
  br i1 %made, label %states, label %drop
states:  ; last, as nothing that makes objects may come between
  {get("%hold", Call, "%call", "hold")}
  %alone = icmp eq i64 %hold, 0
  br i1 %alone, label %borrow, label %hold.states
borrow:
  %borrowed = call i1 @borrow_states(ptr %call, ptr %api)
  br i1 %borrowed, label %run.alone, label %hold.states
run.alone:
  {get("%function", Call, "%call", "run")}
  {get("%table", Call, "%call", "table")}
  %code.alone = call i32 %function(ptr %table)
  br label %check
hold.states:
  %status = call i32 @hold_states(ptr %call, ptr %api)
  switch i32 %status, label %drop [ i32 0, label %run
                                    i32 1, label %unfit ]
unfit:
  call void @release_outputs(ptr %call, ptr %api)
  call void @release_states(ptr %call, ptr %api)
  br label %leave
run:
  %code.held = call i32 @execute(ptr %call, ptr %api)
  call void @release_states(ptr %call, ptr %api)
  br label %check
check:
  %code = phi i32 [ %code.alone, %run.alone ], [ %code.held, %run ]
  %good = icmp eq i32 %code, 0
  br i1 %good, label %wrap, label %bad
wrap:
  %result = call ptr @results(ptr %call, ptr %api)
  %lost = icmp eq ptr %result, null
  br i1 %lost, label %drop, label %end
end:
  call void @leave(ptr %call)
  ret ptr %result
bad:
  call void @release_outputs(ptr %call, ptr %api)
  call void @leave(ptr %call)
  %none.result = call ptr @raise(ptr %call, i32 %code, ptr %api)
  ret ptr null
drop:
  call void @release_outputs(ptr %call, ptr %api)
  call void @release_states(ptr %call, ptr %api)
  call void @leave(ptr %call)
  ret ptr null
}}
"""

_DECLARED = """
declare ptr @fitting(ptr, ptr, ptr)
declare i1 @borrow_states(ptr, ptr)
"""

TEXTS = (CHECKS, QUICK + _DECLARED + BIND + _OUTPUTS + _CALL + ROUTE)
