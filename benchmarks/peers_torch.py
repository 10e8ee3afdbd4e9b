"""The workloads in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .functions import Pure, with_options
from .functions_torch import FUNCTIONS
from .workloads import Adam, Dispatch, Gemm, Step, Training, Workload


def build(workload: Workload, mode: str, threads: int) -> Step:
    torch.set_num_threads(threads)
    match workload:
        case Training():
            return _training(workload, mode, threads)
        case Gemm():
            return _gemm(workload, mode)
        case Dispatch():
            x, y = map(torch.from_numpy, workload.data())
            return _dispatch(workload, mode, x, y)
        case Adam():
            return _adam(workload)
        case Pure():
            call = with_options(FUNCTIONS[workload.op], workload)
            return Step(_mode(call, mode), tuple(map(_tensor, workload.data())))
    raise TypeError(workload)


def _tensor(x: Any) -> torch.Tensor:
    """Indices are of int64, as PyTorch asks for them."""
    tensor = torch.from_numpy(x)
    return tensor.long() if x.dtype == "int32" else tensor


def _mode(call: Any, mode: str) -> Any:
    return torch.compile(call) if mode == "compile" else call


def _dispatch(workload: Dispatch, mode: str, x: torch.Tensor, y: torch.Tensor) -> Step:
    if not workload.tape:
        return Step(_mode(torch.add, mode), (x, y))

    def adds(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        for _ in range(99):
            torch.add(x, y)
        return torch.add(x, y)

    args = x.requires_grad_(), y
    return Step(adds, args, repeats=100, shown=lambda result: result.detach())


def _adam(workload: Adam) -> Step:
    parameters = []
    for p, g in workload.data():
        parameter = torch.nn.Parameter(torch.from_numpy(p))
        parameter.grad = torch.from_numpy(g)
        parameters.append(parameter)
    optimizer = torch.optim.Adam(parameters, workload.rate, eps=workload.epsilon, fused=True)
    return Step(optimizer.step, shown=lambda _: parameters[0].detach())


def _gemm(workload: Gemm, mode: str) -> Step:
    if workload.dtype == "bfloat16":  # NumPy's is unknown to torch
        bits = (torch.from_numpy(x.view(np.int16)) for x in workload.data())
        a, b = (x.view(torch.bfloat16) for x in bits)
    else:
        a, b = map(torch.from_numpy, workload.data())
    operands = (a.mT if workload.transpose_a else a, b.mT if workload.transpose_b else b)
    shown = torch.Tensor.float if workload.dtype == "bfloat16" else lambda result: result
    return Step(_mode(torch.matmul, mode), operands, shown=shown)


def _training(workload: Training, mode: str, threads: int) -> Step:
    weights = workload.weights()
    # the fastest of its implementations, but for small parameters on several threads, which it
    # takes to a barrier for each
    fused = True if threads == 1 or sum(k.size for k, _ in weights) > 10_000 else None
    layers: list[torch.nn.Module] = []
    for kernel, bias in weights:
        layer = torch.nn.Linear(*kernel.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(kernel.T))
            layer.bias.copy_(torch.from_numpy(bias))
        layers += [layer, torch.nn.ReLU() if workload.activation == "relu" else torch.nn.Tanh()]
        if workload.dropout:
            layers.append(torch.nn.Dropout(workload.dropout))
    model = torch.nn.Sequential(*layers[: -2 if workload.dropout else -1])
    parameters = model.parameters()
    if workload.optimizer == "adam":
        optimizer = torch.optim.Adam(parameters, workload.rate, eps=workload.epsilon, fused=fused)
    else:
        optimizer = torch.optim.SGD(parameters, workload.rate, fused=fused)
    x, y = map(torch.from_numpy, workload.data())
    loss_function: torch.nn.Module = torch.nn.MSELoss()
    if workload.loss == "sparse_crossentropy":
        loss_function, y = torch.nn.CrossEntropyLoss(), y.long()

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def snapshot() -> Callable[[], None]:
        weights, slots = copy.deepcopy((model.state_dict(), optimizer.state_dict()))

        def restore() -> None:
            model.load_state_dict(weights)
            optimizer.load_state_dict(slots)

        return restore

    return Step(_mode(step, mode), (x, y), snapshot=snapshot, shown=workload.shown)
