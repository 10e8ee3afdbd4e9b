"""The generated code of the native entry: a builtin function that checks its arguments, runs an
executable and wraps its results, without executing any Python.

One function serves every entry. It is generated once per process; what differs between entries is
in a `Call` record, which the builtin finds through its `self`. Interpreter and NumPy functions are
reached through the `Api` table, so the code itself contains no address and can be kept on disk.

Ownership, which the code below must keep on every path:

- arguments are borrowed: the caller holds them for the whole call;
- a state's array is held from `bind_states` to `release_states`, because another thread or a
  callback may give the variable a new value while the executable runs;
- an output is owned by its record from `make_outputs` until it is returned or dropped.
"""

from __future__ import annotations

from .entry_bind import BIND
from .entry_records import Api, Call, Slot, element, field, get, put
from .layout import Array, Boxed

_OUTPUTS = f"""
; false with an exception set
define internal i1 @make_outputs(ptr %call, ptr %api) {{
  {get("%count", Call, "%call", "output_count")}
  {get("%slots", Call, "%call", "outputs")}
  {get("%start", Call, "%call", "table")}
  {get("%inputs", Call, "%call", "input_count")}
  {get("%states", Call, "%call", "state_count")}
  {get("%incref", Api, "%api", "incref")}
  {get("%new_array", Api, "%api", "new_array")}
  {get("%ndarray", Api, "%api", "ndarray")}
  %offset = add i64 %inputs, %states
  %table = getelementptr ptr, ptr %start, i64 %offset
  br label %head
head:
  %i = phi i64 [ 0, %0 ], [ %i.next, %store ]
  %i.next = add i64 %i, 1
  %done = icmp eq i64 %i, %count
  br i1 %done, label %yes, label %body
body:
  {element("%slot", "%slots", "%i")}
  {get("%descr", Slot, "%slot", "descr")}
  {get("%ndim", Slot, "%slot", "ndim")}
  {get("%dims", Slot, "%slot", "dims")}
  call void %incref(ptr %descr)  ; new_array takes the reference
  %array = call ptr %new_array(ptr %ndarray, ptr %descr, i32 %ndim, ptr %dims, ptr null,
                               ptr null, i32 0, ptr null)
  %no.array = icmp eq ptr %array, null
  br i1 %no.array, label %no, label %wrap
wrap:
  %tensor = call ptr @wrapped(ptr %array, ptr %api)
  %no.tensor = icmp eq ptr %tensor, null
  br i1 %no.tensor, label %no, label %store
store:
  {put(Slot, "%slot", "held", "%tensor")}
  {get("%data", Array, "%array", "data")}
  %entry.at = getelementptr ptr, ptr %table, i64 %i
  store ptr %data, ptr %entry.at
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

define ptr @call(ptr %self, ptr %args, i64 %count) {{
  {get("%call", Boxed, "%self", "data")}
  {get("%api", Call, "%call", "api")}
  {get("%want", Call, "%call", "input_count")}
  {get("%owner", Call, "%call", "owner")}
  %fits = icmp eq i64 %count, %want
  %free = icmp eq i64 %owner, 0
  %go = and i1 %fits, %free
  br i1 %go, label %take, label %miss
take:
  {get("%thread", Api, "%api", "thread")}
  %me = call i64 %thread()
  store i64 %me, ptr %owner.at  ; no race: the GIL is held
  {get("%states", Call, "%call", "states")}
  {get("%state_count", Call, "%call", "state_count")}
  %bound = call i1 @bind_inputs(ptr %call, ptr %args, ptr %api)
  br i1 %bound, label %state, label %leave
leave:
  store i64 0, ptr %owner.at
  br label %miss
miss:
  {get("%none", Api, "%api", "miss")}
  {get("%incref", Api, "%api", "incref")}
  call void %incref(ptr %none)
  ret ptr %none
state:
  %status = call i32 @bind_states(ptr %call, ptr %api)
  switch i32 %status, label %error [ i32 0, label %output
                                     i32 1, label %unfit ]
unfit:
  call void @release(ptr %states, i64 %state_count, ptr %api)
  br label %leave
output:
  {get("%outputs", Call, "%call", "outputs")}
  {get("%output_count", Call, "%call", "output_count")}
  %made = call i1 @make_outputs(ptr %call, ptr %api)
  br i1 %made, label %run, label %drop
run:
  %code = call i32 @execute(ptr %call, ptr %api)
  call void @release(ptr %states, i64 %state_count, ptr %api)
  %good = icmp eq i32 %code, 0
  br i1 %good, label %wrap, label %bad
wrap:
  %result = call ptr @results(ptr %call, ptr %api)
  %lost = icmp eq ptr %result, null
  br i1 %lost, label %drop, label %end
end:
  store i64 0, ptr %owner.at
  ret ptr %result
bad:
  call void @release(ptr %outputs, i64 %output_count, ptr %api)
  store i64 0, ptr %owner.at
  %none.result = call ptr @raise(ptr %call, i32 %code, ptr %api)
  ret ptr null
drop:
  call void @release(ptr %outputs, i64 %output_count, ptr %api)
  br label %error
error:
  call void @release(ptr %states, i64 %state_count, ptr %api)
  store i64 0, ptr %owner.at
  ret ptr null
}}
"""

TEXT = BIND + _OUTPUTS + _CALL
