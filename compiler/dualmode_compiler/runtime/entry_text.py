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
from .entry_records import Api, Arena, Call, field, get
from .entry_results import RESULTS
from .entry_route import ROUTE
from .jit import QUICK
from .layout import Boxed

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

TEXTS = (CHECKS, QUICK + _DECLARED + BIND + RESULTS + _CALL + ROUTE)
