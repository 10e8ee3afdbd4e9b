"""Generated code that CPython runs when an instance of `vectorcall.Routable` is called.

It goes to the target of the instance's `Route`, if that may be done and the target does not miss;
else to the class's `__call__`, which is Python.
"""

from __future__ import annotations

from .entry_records import Api, Home, Route, get
from .layout import Boxed, List, Object
from .vectorcall import Instance

ROUTE = f"""
define ptr @route(ptr %self, ptr %args, i64 %flagged, ptr %names) {{
  {get("%home", Instance, "%self", "home")}
  {get("%api", Home, "%home", "api")}
  {get("%detours", Home, "%home", "detours")}
  {get("%skip", Home, "%home", "skip")}
  {get("%reasons", List, "%detours", "size")}
  {get("%boxed", Instance, "%self", "route")}
  %positional = icmp eq ptr %names, null
  %straight = icmp eq i64 %reasons, 0
  %routed = icmp ne ptr %boxed, null
  %given = and i64 %flagged, {(1 << 63) - 1}
  %count = sub i64 %given, %skip
  %enough = icmp sge i64 %count, 0
  %go.a = and i1 %positional, %straight
  %go.b = and i1 %routed, %enough
  %go = and i1 %go.a, %go.b
  br i1 %go, label %hold, label %slow
hold:  ; another thread may give the instance another route meanwhile
  {get("%holders", Object, "%boxed", "refcount")}
  %more = add i32 %holders, 1
  store i32 %more, ptr %holders.at
  {get("%route", Boxed, "%boxed", "data")}
  {get("%call", Route, "%route", "call")}
  %rest = getelementptr ptr, ptr %args, i64 %skip
  %python = icmp eq ptr %call, null
  br i1 %python, label %target, label %native
native:
  %native.result = call ptr @enter(ptr %call, ptr %rest, i64 %count)
  br label %release
target:
  {get("%callee", Route, "%route", "target")}
  {get("%vectorcall", Api, "%api", "vectorcall")}
  %python.result = call ptr %vectorcall(ptr %callee, ptr %rest, i64 %count, ptr null)
  br label %release
release:
  %result = phi ptr [ %native.result, %native ], [ %python.result, %target ]
  {get("%decref", Api, "%api", "decref")}
  %now = load i32, ptr %holders.at
  %shared = icmp sgt i32 %now, 1
  br i1 %shared, label %less, label %last
less:
  %fewer = sub i32 %now, 1
  store i32 %fewer, ptr %holders.at
  br label %test
last:
  call void %decref(ptr %boxed)
  br label %test
test:
  {get("%miss", Api, "%api", "miss")}
  %missed = icmp eq ptr %result, %miss
  br i1 %missed, label %forget, label %end
end:
  ret ptr %result
forget:
  call void %decref(ptr %miss)
  br label %slow
slow:
  {get("%slow.function", Home, "%home", "slow")}
  {get("%new_method", Api, "%api", "new_method")}
  {get("%call.slow", Api, "%api", "vectorcall")}
  {get("%drop", Api, "%api", "decref")}
  %method = call ptr %new_method(ptr %slow.function, ptr %self)
  %failed = icmp eq ptr %method, null
  br i1 %failed, label %fail, label %python.call
python.call:
  %slow.result = call ptr %call.slow(ptr %method, ptr %args, i64 %flagged, ptr %names)
  call void %drop(ptr %method)
  ret ptr %slow.result
fail:
  ret ptr null
}}
"""
