"""What PyTorch does where the auditor of teacher-student loops depends on it: executed, not read.

Usage:  python benchmarks/pytorch_facts.py                 (all groups, on the CPU; prints Markdown tables)
        python benchmarks/pytorch_facts.py --only version hooks
        python benchmarks/pytorch_facts.py --steps 4       (shorter training runs in the group `training`)

One function per fact. A fact says what was seen; it asserts nothing, so that another torch version prints another
table instead of failing. Times are processor times of this thread, medians over alternating rounds, given as ratios.
"""

import argparse
import contextlib
import copy
import functools
import gc
import pickle
import statistics
import sys
import tempfile
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

Seen = str | list[tuple[str, str]]
GROUPS: dict[str, list[tuple[str, Callable[[], Seen]]]] = {}
STEPS = 10


def fact(group: str, what: str) -> Callable[[Callable[[], Seen]], Callable[[], Seen]]:
    """Put the function into the group; it returns what was seen, or (case, seen) pairs that extend the title."""

    def add(function: Callable[[], Seen]) -> Callable[[], Seen]:
        GROUPS.setdefault(group, []).append((what, function))
        return function

    return add


@contextlib.contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def cpu_seconds(function: Callable[[], Any]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def rounds(functions: dict[str, Callable[[], Any]], count: int) -> dict[str, float]:
    """Return the median processor time of each function; they are run in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(count):
        for name, function in functions.items():
            times[name].append(cpu_seconds(function))
    return {name: statistics.median(values) for name, values in times.items()}


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))


def fresh_dynamo() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# ---------------------------------------------------------------- writes to a parameter


def quiet(write: Callable[[nn.Parameter, Tensor], Any]) -> Callable[[nn.Parameter, Tensor], Any]:
    def run(p: nn.Parameter, q: Tensor) -> None:
        with torch.no_grad():
            write(p, q)

    return run


def inference(p: nn.Parameter, q: Tensor) -> None:
    with torch.inference_mode():
        p.mul_(0.5)


def assign_data(p: nn.Parameter, q: Tensor) -> None:
    p.data = q


def numpy_write(p: nn.Parameter, q: Tensor) -> None:
    p.detach().numpy()[:] *= 0.5


def numpy_data_write(p: nn.Parameter, q: Tensor) -> None:
    p.data.numpy()[:] *= 0.5


def item_write(p: nn.Parameter, q: Tensor) -> None:
    p.data[0] = 1.0


WRITES: dict[str, Callable[[nn.Parameter, Tensor], Any]] = {
    "`p.data.mul_()`": lambda p, q: p.data.mul_(0.5),
    "`p.data[0] = 1`": item_write,
    "`p.detach().mul_()`": lambda p, q: p.detach().mul_(0.5),
    "no_grad `p.mul_()`": quiet(lambda p, q: p.mul_(0.5)),
    "inference_mode `p.mul_()`": inference,
    "no_grad `p.lerp_()`": quiet(lambda p, q: p.lerp_(q, 0.5)),
    "no_grad `p.copy_()`": quiet(lambda p, q: p.copy_(q)),
    "no_grad `torch.mul(p, 0.5, out=p)`": quiet(lambda p, q: torch.mul(p, 0.5, out=p)),
    "no_grad `_foreach_mul_([p])`": quiet(lambda p, q: torch._foreach_mul_([p], 0.5)),
    "no_grad `_foreach_lerp_([p], [q])`": quiet(lambda p, q: torch._foreach_lerp_([p], [q], 0.5)),
    "`_foreach_mul_([p.data])`": lambda p, q: torch._foreach_mul_([p.data], 0.5),
    "`p.data = q`": assign_data,
    "no_grad `p.set_(q)`": quiet(lambda p, q: p.set_(q)),
    "`p.detach().numpy()[:] *= 0.5`": numpy_write,
    "`p.data.numpy()[:] *= 0.5`": numpy_data_write,
}


def write_case(write: Callable[[nn.Parameter, Tensor], Any]) -> str:
    torch.manual_seed(0)
    p, q = nn.Parameter(torch.randn(4, 4)), torch.randn(4, 4)
    version, place, value = p._version, p.data_ptr(), p.detach().clone()
    write(p, q)
    moved = "moved" if p.data_ptr() != place else "same"
    changed = "values changed" if not torch.equal(p.detach(), value) else "VALUES THE SAME"
    return f"{p._version - version:+d}, data_ptr {moved}, {changed}"


@fact("version", "`_version` change of a Parameter after")
def version_of_writes() -> Seen:
    return [(name, write_case(write)) for name, write in WRITES.items()]


def module_case(change: Callable[[nn.Linear, dict[str, Tensor]], Any]) -> str:
    torch.manual_seed(0)
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4).state_dict()
    p, version, place, value = layer.weight, layer.weight._version, layer.weight.data_ptr(), layer.weight.clone()
    change(layer, other)
    now = layer.weight
    said = "same id" if now is p else "ANOTHER id"
    moved = "same" if now.data_ptr() == place else "moved"
    from_source = ", shares the loaded tensor" if now.data_ptr() == other["weight"].data_ptr() else ""
    changed = "values changed" if not torch.equal(now, value) else "VALUES THE SAME"
    return f"{now._version - version:+d} ({now._version} now), {said}, data_ptr {moved}{from_source}, {changed}"


@fact("version", "`_version` of `layer.weight` after")
def version_of_modules() -> Seen:
    return [
        ("`load_state_dict()`", module_case(lambda m, s: m.load_state_dict(s))),
        ("`load_state_dict(assign=True)`", module_case(lambda m, s: m.load_state_dict(s, assign=True))),
        ("`state_dict()['weight'].mul_()`", module_case(lambda m, s: m.state_dict()["weight"].mul_(0.5))),
        ("`m.half().float()`", module_case(lambda m, s: m.half().float())),
        ("`m.to('cpu')`", module_case(lambda m, s: m.to("cpu"))),
        (
            "`vector_to_parameters()`",
            module_case(lambda m, s: nn.utils.vector_to_parameters(torch.ones(20), [*m.parameters()])),
        ),
    ]


@fact("version", "`_version` of a Parameter made under inference_mode")
def version_of_inference() -> Seen:
    with torch.inference_mode():
        p = nn.Parameter(torch.zeros(3))
    try:
        return str(p._version)
    except RuntimeError as error:
        return f"RuntimeError: {error}"


@fact("version", "`_version` change of the teacher in one update of")
def version_of_library_updates() -> Seen:
    from timm.utils import ModelEmaV2, ModelEmaV3
    from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

    def seen(make: Callable[[nn.Module], Any], update: Callable[[Any, nn.Module], Any]) -> str:
        teacher = make(small())
        student = small()
        for p in student.parameters():
            p.data.add_(0.1)
        update(teacher, student)  # AveragedModel copies on its first call
        for p in student.parameters():
            p.data.add_(0.1)
        first = next(teacher.module.parameters())
        before, value = first._version, first.detach().clone()
        update(teacher, student)
        return f"{first._version - before:+d}, values changed: {not torch.equal(value, first)}"

    averaged = [("`AveragedModel(multi_avg_fn=ema)`", {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}),
                ("`AveragedModel(avg_fn=ema)`", {"avg_fn": get_ema_avg_fn(0.9)})]  # fmt: skip
    rows = [(n, seen(partial(AveragedModel, **k), lambda t, s: t.update_parameters(s))) for n, k in averaged]
    rows.append(("timm `ModelEmaV3` (foreach)", seen(partial(ModelEmaV3, decay=0.9), lambda t, s: t.update(s))))
    rows.append(("timm `ModelEmaV3(foreach=False)`",
                 seen(partial(ModelEmaV3, decay=0.9, foreach=False), lambda t, s: t.update(s))))  # fmt: skip
    rows.append(("timm `ModelEmaV2`", seen(partial(ModelEmaV2, decay=0.9), lambda t, s: t.update(s))))
    return rows


# ---------------------------------------------------------------- optimizers

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    f"{cls.__name__} {name}": partial(cls, lr=0.1, **kind)
    for cls in (torch.optim.SGD, torch.optim.AdamW)
    for name, kind in {
        "default": {}, "for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True},
    }.items()
}  # fmt: skip


@fact("optimizer", "student `_version` change in one step of")
def version_of_steps() -> Seen:
    rows = []
    for name, make in OPTIMIZERS.items():
        model = small()
        optimizer = make(model.parameters())
        seen = []
        for _ in range(2):
            model(torch.randn(3, 8)).pow(2).mean().backward()
            p = model[0].weight
            before, value = p._version, p.detach().clone()
            optimizer.step()
            seen.append(f"{p._version - before:+d}")
            changed = not torch.equal(value, p)
        rows.append((name, f"{seen[0]} first, {seen[1]} second step; values changed: {changed}"))
    return rows


def hook_log(log: list[str]) -> list[Any]:
    return [register_optimizer_step_pre_hook(lambda o, a, k: log.append("global pre")),
            register_optimizer_step_post_hook(lambda o, a, k: log.append("global post"))]  # fmt: skip


@fact("hooks", "order of optimizer hooks in one `step()`")
def hook_order() -> Seen:
    log: list[str] = []
    optimizer = torch.optim.SGD(small().parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda o, a, k: log.append("instance pre"))
    optimizer.register_step_post_hook(lambda o, a, k: log.append("instance post"))
    with hooked(*hook_log(log)):
        optimizer.step()
    return " → ".join(log)


@fact("hooks", "`step(closure)` (as Lightning's automatic optimization): when do the hooks fire")
def hook_closure() -> Seen:
    log: list[str] = []
    model = small()
    optimizer = torch.optim.AdamW(model.parameters())

    def closure() -> Tensor:
        log.append("closure with forward and backward")
        loss = model(torch.randn(3, 8)).pow(2).mean()
        loss.backward()
        return loss

    with hooked(*hook_log(log)):
        optimizer.step(closure)
    return " → ".join(log)


@fact("hooks", "a global hook registered AFTER the optimizer was made, and after its first step")
def hook_late() -> Seen:
    log: list[str] = []
    optimizer = torch.optim.SGD(small().parameters(), lr=0.1)
    optimizer.step()
    with hooked(*hook_log(log)):
        optimizer.step()
    optimizer.step()
    return f"fires: {log}; after remove(): nothing more" if len(log) == 2 else str(log)


def scaler_case(make: Callable[[Any], torch.optim.Optimizer], overflow: bool) -> str:
    model, log = small(), []
    optimizer, scaler = make(model.parameters()), torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer.register_step_pre_hook(lambda o, a, k: log.append(f"pre(found_inf={getattr(o, 'found_inf', None)})"))
    optimizer.register_step_post_hook(lambda o, a, k: log.append("post"))
    before = copy.deepcopy(model)
    loss = model(torch.randn(3, 8)).pow(2).mean() * (float("inf") if overflow else 1.0)
    scaler.scale(loss).backward()
    version = model[0].weight._version
    with hooked(*hook_log(log)):
        scaler.step(optimizer)
    scaler.update()
    state = [float(s["step"]) for s in optimizer.state.values() if "step" in s]
    said = " → ".join(log).replace("tensor(", "").replace(".)", "") or "NO hook"
    return (
        f"hooks: {said}; student changed: {not equal(before, model)}; `_version` "
        f"{model[0].weight._version - version:+d}; scale 4 → {scaler.get_scale():g}"
        + (f"; state step {state[0]:g}" if state else "")
    )


@fact("hooks", "`torch.amp.GradScaler('cpu').step()`")
def scaler_hooks() -> Seen:
    names = ["SGD default", "SGD fused", "AdamW default", "AdamW foreach", "AdamW fused"]
    return [
        (f"{name}, {'inf gradient' if bad else 'finite'}", scaler_case(OPTIMIZERS[name], bad))
        for name in names
        for bad in (True, False)
    ]


@fact("hooks", "`GradScaler.unscale_(opt)` first, then inf: `scaler._per_optimizer_states[id(opt)]`")
def scaler_state() -> Seen:
    model = small()
    optimizer, scaler = OPTIMIZERS["AdamW default"](model.parameters()), torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.randn(3, 8)).mean() * float("inf")).backward()
    scaler.unscale_(optimizer)
    return str(dict(scaler._per_optimizer_states[id(optimizer)])).replace("|", "/")


class OwnStep(torch.optim.Optimizer):
    """Overrides `step`, calls `super().__init__`."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(0.1)


class CallsSuper(torch.optim.AdamW):
    """Overrides `step` and calls the parent's."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class NoInit(torch.optim.Optimizer):
    """A wrapper that never calls `super().__init__` (as timm's Lookahead and accelerate's wrapper do)."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.param_groups, self.defaults = inner, inner.param_groups, inner.defaults

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


class NotAnOptimizer:
    """Duck-typed: has param_groups and step, inherits nothing."""

    def __init__(self, params: Any) -> None:
        self.param_groups = [{"params": list(params)}]

    def step(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.data.sub_(0.1)


def fired(optimizer: Any) -> str:
    log: list[str] = []
    handle = register_optimizer_step_pre_hook(lambda o, a, k: log.append(type(o).__name__))
    with hooked(handle):
        optimizer.step()
    return f"{len(log)}× {log}"


@fact("hooks", "global pre-hook count in one step of")
def hook_subclasses() -> Seen:
    from timm.optim import Lookahead

    def inner() -> torch.optim.Optimizer:
        return torch.optim.SGD(small().parameters(), lr=0.1)

    rows = [("a subclass that overrides `step` (`super().__init__` called)", fired(OwnStep(small().parameters())))]

    # A parent's `step` is wrapped only once an object of exactly that class exists: the count depends on the past.
    class Parent(OwnStep):
        def step(self, closure: Any = None) -> None:
            OwnStep.step.__wrapped__(self)

    class Child(Parent):
        def step(self, closure: Any = None) -> None:
            super().step(closure)

    case = "a subclass that calls `super().step()`, {} a parent object was made in this process"
    rows.append((case.format("before"), fired(Child(small().parameters()))))
    Parent(small().parameters())
    rows.append((case.format("after"), fired(Child(small().parameters()))))
    torch.optim.AdamW(small().parameters())
    rows.append(
        ("a subclass of AdamW that calls `super().step()`, some AdamW exists", fired(CallsSuper(small().parameters())))
    )
    patched = inner()
    original = patched.step
    patched.step = lambda *a: original(*a)
    rows.append(("SGD with an instance attribute `opt.step = wrapper(opt.step)`", fired(patched)))
    replaced = inner()
    replaced.step = lambda *a: [p.data.sub_(0.1) for p in replaced.param_groups[0]["params"]]
    rows.append(("SGD with an instance attribute `step` that writes itself", fired(replaced)))
    rows.append(("a wrapper Optimizer without `super().__init__`", fired(NoInit(inner()))))
    rows.append(("timm `Lookahead(SGD)`", fired(Lookahead(inner()))))
    rows.append(("a duck-typed optimizer (no inheritance)", fired(NotAnOptimizer(small().parameters()))))
    return rows


@fact("hooks", "LambdaLR patches `optimizer.step`: global pre-hook count per step, and what `step` is then")
def hook_scheduler() -> Seen:
    optimizer = torch.optim.SGD(small().parameters(), lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0)
    return f"{fired(optimizer)}; `'step' in vars(opt)`: {'step' in vars(optimizer)} (two schedulers)"


def accelerate_case(precision: str, every: int = 1, scheduler: bool = False) -> str:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=every)
    model = small()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0)
    model, optimizer = accelerator.prepare(model, optimizer)
    if scheduler:
        schedule = accelerator.prepare(schedule)
    log: list[str] = []
    with hooked(register_optimizer_step_pre_hook(lambda o, a, k: log.append(type(o).__name__))):
        for _ in range(4):
            with accelerator.accumulate(model):
                accelerator.backward(model(torch.randn(3, 8)).float().pow(2).mean())
                optimizer.step()
                if scheduler:
                    schedule.step()
                optimizer.zero_grad()
    kind = (
        f"isinstance Optimizer: {isinstance(optimizer, torch.optim.Optimizer)}, scaler: {optimizer.scaler is not None}"
    )
    return f"{len(log)} in 4 calls, by {dict(Counter(log))}; {kind}"


def accelerate_scaler_case(overflow: bool) -> str:
    from accelerate.optimizer import AcceleratedOptimizer

    model, scaler, log = small(), torch.amp.GradScaler("cpu"), []
    optimizer = AcceleratedOptimizer(torch.optim.AdamW(model.parameters()), scaler=scaler)
    scaler.scale(model(torch.randn(3, 8)).mean() * (float("inf") if overflow else 1.0)).backward()
    with hooked(*hook_log(log)):
        optimizer.step()
    return f"{log or 'NO hook'}; `step_was_skipped`: {optimizer.step_was_skipped}"


@fact("hooks", "global pre-hook count under accelerate")
def hook_accelerate() -> Seen:
    return [
        ("AcceleratedOptimizer, fp32", accelerate_case("no")),
        ("with a prepared LambdaLR", accelerate_case("no", scheduler=True)),
        ("gradient_accumulation_steps=2", accelerate_case("no", every=2)),
        ("mixed_precision='bf16'", accelerate_case("bf16")),
        ("AcceleratedOptimizer with a GradScaler('cpu'), inf gradient", accelerate_scaler_case(True)),
        ("AcceleratedOptimizer with a GradScaler('cpu'), finite", accelerate_scaler_case(False)),
    ]


@fact("hooks", "global pre-hook count in three calls of `torch.compile(opt.step, backend='eager')`")
def hook_compiled_step() -> Seen:
    fresh_dynamo()
    model, log = small(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(3, 8)).mean().backward()
    compiled = torch.compile(optimizer.step, backend="eager")
    compiled()
    with hooked(*hook_log(log)):
        for _ in range(3):
            compiled()
    return f"{dict(Counter(log)) or 'NO hook'} (hooks registered after the first compiled call)"


@fact("hooks", "`AcceleratedOptimizer.register_step_pre_hook` (the wrapper itself)")
def hook_on_accelerated() -> Seen:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    optimizer = Accelerator(cpu=True).prepare(torch.optim.SGD(small().parameters(), lr=0.1))
    try:
        optimizer.register_step_pre_hook(lambda o, a, k: None)
    except AttributeError as error:
        return f"AttributeError: {error}"
    return "accepted"


# ---------------------------------------------------------------- weak references and copies


@fact("references", "`weakref.ref` works on, and dies with its object")
def weak_references() -> Seen:
    rows = []
    for name, make in {
        "Module": small,
        "Parameter": lambda: nn.Parameter(torch.zeros(3)),
        "Tensor": lambda: torch.zeros(3),
        "Optimizer": lambda: torch.optim.SGD(small().parameters(), lr=0.1),
        "grad_fn node": lambda: (torch.zeros(3, requires_grad=True) * 2).grad_fn,
        "UntypedStorage": lambda: torch.zeros(3).untyped_storage(),
    }.items():
        thing = make()
        try:
            ref = weakref.ref(thing)
        except TypeError as error:
            rows.append((name, f"no: {error}"))
            continue
        del thing
        at_once = ref() is None
        gc.collect()
        rows.append((name, f"yes; dead at once: {at_once}; dead after gc.collect(): {ref() is None}"))
    return rows


class Watcher:
    """Stands for the auditor: its bound method is a module hook."""

    def __init__(self) -> None:
        self.calls, self.payload = 0, [torch.zeros(2)]

    def hook(self, *args: Any) -> None:
        self.calls += 1


@fact("references", "deepcopy of a module with")
def deepcopy_hooks() -> Seen:
    def seen(register: Callable[[nn.Linear, Watcher], Any]) -> str:
        layer, watcher = nn.Linear(2, 2), Watcher()
        register(layer, watcher)
        twin = copy.deepcopy(layer)
        twin(torch.randn(1, 2)).sum().backward()
        hooks = [*twin._forward_hooks.values()]
        owner = getattr(hooks[0], "__self__", None) if hooks else None
        copied = "" if owner is None else f"; the copied hook's owner is the auditor: {owner is watcher}"
        return f"{len(hooks)} module hooks in the copy{copied}; calls that reach the auditor: {watcher.calls}"

    def a_closure(layer: nn.Linear, watcher: Watcher) -> Any:
        return layer.register_forward_hook(lambda m, i, o: watcher.hook())

    def a_global(layer: nn.Linear, watcher: Watcher) -> Any:
        layer.handle = module_hooks.register_module_forward_hook(watcher.hook)

    def on_parameter(layer: nn.Linear, watcher: Watcher) -> Any:
        return layer.weight.register_post_accumulate_grad_hook(watcher.hook)

    rows = [
        ("a forward hook that is a bound method", seen(lambda m, w: m.register_forward_hook(w.hook))),
        ("a forward hook that is a closure", seen(a_closure)),
        ("a post-accumulate-grad hook on the parameter (bound method)", seen(on_parameter)),
    ]
    layer, watcher = nn.Linear(2, 2), Watcher()
    with hooked(module_hooks.register_module_forward_hook(watcher.hook)):
        twin = copy.deepcopy(layer)
        twin(torch.randn(1, 2))
    rows.append(("a GLOBAL forward hook (bound method)",
                 f"{len(twin._forward_hooks)} module hooks in the copy; fires for the copy {watcher.calls}×, "
                 "because it is global"))  # fmt: skip
    return rows


@fact("references", "pickle / `torch.save(module)` with a registered hook")
def pickle_hooks() -> Seen:
    rows = []
    for name, where in {"per-module closure": "module", "global closure": "global", "none": ""}.items():
        layer, hook = nn.Linear(2, 2), lambda m, i, o: None
        handles = [layer.register_forward_hook(hook)] if where == "module" else []
        handles += [module_hooks.register_module_forward_hook(hook)] if where == "global" else []
        with hooked(*handles):
            try:
                rows.append((name, f"works, {len(pickle.dumps(layer))} bytes"))
            except (AttributeError, pickle.PicklingError) as error:
                rows.append((name, f"{type(error).__name__}: {str(error)[:70]}"))
    return rows


@fact("references", "deepcopy / pickle of an optimizer with instance hooks")
def optimizer_copies() -> Seen:
    optimizer, watcher = torch.optim.SGD(small().parameters(), lr=0.1), Watcher()
    optimizer.register_step_pre_hook(watcher.hook)
    twin = copy.deepcopy(optimizer)
    twin.step()
    return f"hooks in the copy: {len(twin._optimizer_step_pre_hooks)}; calls that reach the auditor: {watcher.calls}"


# ---------------------------------------------------------------- number formats

MOMENTA = (0.996, 0.998, 0.9985, 0.99925, 0.9999)


@fact("numbers", "cast of τ and of 1−τ to")
def casts() -> Seen:
    rows = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for tau in MOMENTA:
            a, b = torch.tensor(tau, dtype=dtype), torch.tensor(1 - tau, dtype=dtype)
            total = a.double() + b.double()
            off = f"sum off by {float(total - 1):+.2e}" if total != 1 else "sum exactly 1"
            rest = float((1 - a).double())
            rows.append((f"{str(dtype)[6:]}, τ={tau}",
                         f"τ → {float(a):.8g}, 1−τ → {float(b):.8g}; {off}; `1 − cast(τ)` = {rest:.8g}"))  # fmt: skip
    return rows


@fact("numbers", "all buffers `t.mul_(τ.to(t.dtype)).add_((1−τ).to(t.dtype) * s)`, τ=0.996 a float32 tensor")
def cast_buffers() -> Seen:
    rows = []
    cases = {
        "int64 t=7 s=9": (torch.tensor(7), torch.tensor(9)),
        "int64 t=0 s=9": (torch.tensor(0), torch.tensor(9)),
        "uint8 t=7 s=9": (torch.tensor(7, dtype=torch.uint8), torch.tensor(9, dtype=torch.uint8)),
        "bool t=[T,T,F,F] s=[T,F,T,F]": (torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()),
        "bfloat16 t=1 s=1": (torch.tensor(1.0).bfloat16(), torch.tensor(1.0).bfloat16()),
        "float32 t=1 s=1": (torch.tensor(1.0), torch.tensor(1.0)),
    }
    tau = torch.tensor(0.996)
    for name, (t, s) in cases.items():
        try:
            rows.append((name, str(t.mul_(tau.to(t.dtype)).add_((1 - tau).to(t.dtype) * s).tolist())))
        except RuntimeError as error:
            rows.append((name, f"RuntimeError: {str(error)[:80]}"))
    return rows


@fact("numbers", "Python-scalar EMA on an int64 buffer")
def scalar_buffers() -> Seen:
    rows = []
    for name, update in {
        "`t.mul_(0.996).add_(s, alpha=0.004)`": lambda t, s: t.mul_(0.996).add_(s, alpha=0.004),
        "`t.copy_(0.996 * t + 0.004 * s)`": lambda t, s: t.copy_(0.996 * t + 0.004 * s),
        "`t.lerp_(s, 0.004)`": lambda t, s: t.lerp_(s, 0.004),
        "`torch._foreach_mul_([t], 0.996)`": lambda t, s: torch._foreach_mul_([t], 0.996),
    }.items():
        t = torch.tensor(7)
        try:
            update(t, torch.tensor(9))
            rows.append((name, f"t=7, s=9 → {t.item()}"))
        except RuntimeError as error:
            rows.append((name, f"RuntimeError: {str(error)[:80]}"))
    return rows


UPDATES: dict[str, Callable[[Tensor, Tensor, float], Any]] = {
    "`mul_(τ).add_(s, alpha=1−τ)`": lambda t, s, m: t.mul_(m).add_(s, alpha=1 - m),
    "`mul_(τ).add_((1−τ)*s)`": lambda t, s, m: t.mul_(m).add_((1 - m) * s),
    "`copy_(τ*t + (1−τ)*s)`": lambda t, s, m: t.copy_(m * t + (1 - m) * s),
    "`lerp_(s, 1−τ)`": lambda t, s, m: t.lerp_(s, 1 - m),
    "`_foreach_mul_; _foreach_add_(alpha)`": lambda t, s, m: (
        torch._foreach_mul_([t], m), torch._foreach_add_([t], [s], alpha=1 - m)),
    "`_foreach_lerp_`": lambda t, s, m: torch._foreach_lerp_([t], [s], 1 - m),
}  # fmt: skip


def spacing(c: Tensor) -> Tensor:
    """Return the distance to the next representable number (one ulp)."""
    return (torch.nextafter(c.abs(), torch.full_like(c, torch.inf)) - c.abs()).double()


def share(distance: Tensor) -> float:
    return float((distance > 0).double().mean())


def ulps(t: Tensor, c: Tensor) -> Tensor:
    return (t - c).abs().double() / spacing(c)


@fact("numbers", "float32 EMA of a constant with itself (t = s = c), 2000 steps")
def constant_drift() -> Seen:
    rows = []
    for tau in (0.996, 0.9999):
        for name, update in UPDATES.items():
            torch.manual_seed(0)
            c = torch.randn(20_000) * 0.02
            t = c.clone()
            update(t, c, tau)
            once = ulps(t, c)
            for _ in range(1999):
                update(t, c, tau)
            end = ulps(t, c)
            rows.append((f"τ={tau}, {name}",
                         f"one update: {share(once):.1%} changed, at most {float(once.max()):g} ulp; "
                         f"2000: {share(end):.1%}, mean {float(end.mean()):.1f}, at most "
                         f"{float(end.max()):.0f} ulp, rel. {float(((t - c) / c).abs().max()):.1e}"))  # fmt: skip
    return rows


@fact("numbers", "one float32 update, t and s independent, τ=0.996: distance from the float64 result")
def form_distance() -> Seen:
    torch.manual_seed(0)
    t, s = torch.randn(100_000) * 0.02, torch.randn(100_000) * 0.02
    exact = t.double() * 0.996 + s.double() * (1 - 0.996)
    rows = []
    for name, update in UPDATES.items():
        got = t.clone()
        update(got, s, 0.996)
        far = (got.double() - exact).abs()
        larger = torch.maximum(t.abs(), got.abs())
        by_t, by_larger = float((far / spacing(t)).max()), float((far / spacing(larger)).max())
        rows.append((name, f"at most {by_t:.0f} ulp(t), but at most {by_larger:.2f} ulp(max(abs(t), abs(result)))"))
    return rows


@fact("numbers", "bfloat16 teacher, one EMA at τ=0.996, student at relative distance")
def bf16_underflow() -> Seen:
    rows = []
    for distance in (1e-3, 1e-2, 1e-1):
        for kind in ("float32 student", "bfloat16 student"):
            seen = []
            for name in ("`mul_(τ).add_(s, alpha=1−τ)`", "`lerp_(s, 1−τ)`"):
                torch.manual_seed(0)
                t = (torch.randn(100_000) * 0.02).bfloat16()
                s = t.float() * (1 + distance * torch.randn(100_000).sign())
                s = s if kind.startswith("float32") else s.bfloat16()
                after = t.clone()
                try:
                    UPDATES[name](after, s, 0.996)
                except RuntimeError as error:
                    seen.append(f"{name} RuntimeError: {str(error)[:60]}")
                    continue
                same = float((after == t).double().mean())
                away = float(((after.float() - t.float()) * (s.float() - t.float()) < 0).double().mean())
                seen.append(f"{name} unchanged {same:.1%}, moved away from s {away:.1%}")
            rows.append((f"{distance:g}, {kind}", "; ".join(seen)))
    return rows


# ---------------------------------------------------------------- wrappers


class Joint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.target_encoder = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


def attribute(wrapped: nn.Module) -> str:
    named = next(iter(dict(wrapped.named_parameters())))
    inner = [n for n in ("module", "_orig_mod") if n in dict(wrapped.named_children())]
    return f"{hasattr(wrapped, 'target_encoder')}; inner as {inner}; first parameter name `{named}`"


@fact("wrappers", "`hasattr(wrapped, 'target_encoder')`")
def wrapper_attributes() -> Seen:
    import torch.distributed as dist

    rows = [("DataParallel", attribute(nn.DataParallel(Joint())))]
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", store=dist.FileStore(str(Path(folder) / "store"), 1), rank=0, world_size=1)
        model = Joint()
        model.target_encoder.requires_grad_(False)
        wrapped = nn.parallel.DistributedDataParallel(model)
        rows.append(("DistributedDataParallel (1 gloo process)", attribute(wrapped)))
        rows.append(
            (
                "DDP: same Parameter objects as before wrapping",
                str(wrapped.module.encoder.weight is model.encoder.weight),
            )
        )
        before = model.encoder.weight.data_ptr()
        wrapped(torch.randn(2, 4)).sum().backward()
        rows.append(
            (
                "DDP: data_ptr of a parameter after forward and backward",
                "same" if model.encoder.weight.data_ptr() == before else "moved",
            )
        )
        dist.destroy_process_group()
    rows.append(("torch.compile", attribute(torch.compile(Joint(), backend="eager"))))
    from torch.optim.swa_utils import AveragedModel

    rows.append(("AveragedModel", attribute(AveragedModel(Joint()))))
    return rows


# ---------------------------------------------------------------- dispatch mode


class PassThrough(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


class Writes(TorchDispatchMode):
    """Records every operation whose schema says that it writes an argument, if that argument lies in `storage`."""

    def __init__(self, storage: int) -> None:
        super().__init__()
        self.storage, self.all, self.found = storage, [], []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.all.append(str(func).removeprefix("aten."))
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = kwargs.get(argument.name, args[place] if place < len(args) else None)
            if any(t.untyped_storage().data_ptr() == self.storage for t in tensors(value)):
                self.found.append(f"`{str(func).removeprefix('aten.')}`({argument.name}: {argument.type})")
        return func(*args, **kwargs)


@fact("dispatch", "writes to p that a TorchDispatchMode sees in (mutable schema argument)")
def dispatch_writes() -> Seen:
    rows = []
    for name, write in WRITES.items():
        torch.manual_seed(0)
        p, q = nn.Parameter(torch.randn(4, 4)), torch.randn(4, 4)
        with Writes(p.untyped_storage().data_ptr()) as mode:
            write(p, q)
        rows.append(
            (name, (", ".join(mode.found) or "NO WRITE SEEN") + f"; all: {' '.join(mode.all) or 'nothing at all'}")
        )
    return rows


@fact("dispatch", "writes to `layer.weight` that a TorchDispatchMode sees in")
def dispatch_module_writes() -> Seen:
    def seen(change: Callable[[nn.Linear, dict[str, Tensor]], Any]) -> str:
        layer, other = nn.Linear(4, 4), nn.Linear(4, 4).state_dict()
        with Writes(layer.weight.untyped_storage().data_ptr()) as mode:
            change(layer, other)
        return (", ".join(mode.found) or "NO WRITE SEEN") + f"; all: {' '.join(mode.all) or 'nothing at all'}"

    return [
        ("`load_state_dict()`", seen(lambda m, s: m.load_state_dict(s))),
        ("`load_state_dict(assign=True)`", seen(lambda m, s: m.load_state_dict(s, assign=True))),
        ("`nn.init.normal_`", seen(lambda m, s: nn.init.normal_(m.weight))),
        (
            "`vector_to_parameters()`",
            seen(lambda m, s: nn.utils.vector_to_parameters(torch.ones(20), [*m.parameters()])),
        ),
    ]


@fact("dispatch", "writes to one student weight that a TorchDispatchMode sees in one step of")
def dispatch_optimizer_writes() -> Seen:
    rows = []
    for name in ("SGD default", "SGD fused", "AdamW for-loop", "AdamW foreach", "AdamW fused"):
        model = small()
        optimizer = OPTIMIZERS[name](model.parameters())
        for _ in range(2):
            model(torch.randn(3, 8)).pow(2).mean().backward()
            with Writes(model[0].weight.untyped_storage().data_ptr()) as mode:
                optimizer.step()
        rows.append((name, ", ".join(mode.found) or "NO WRITE SEEN"))
    return rows


@fact("dispatch", "the dispatch mode is entered on the main thread; writes of another thread / of a DataLoader worker")
def dispatch_threads() -> Seen:
    import threading

    p = nn.Parameter(torch.randn(4))
    with Writes(p.untyped_storage().data_ptr()) as mode:
        thread = threading.Thread(target=lambda: p.data.mul_(0.5))
        thread.start()
        thread.join()
    return f"{mode.found or 'not seen'} (the mode is thread-local)"


@fact("dispatch", "backward inside a TorchDispatchMode entered before `backward()`")
def dispatch_backward() -> Seen:
    ids: dict[str, set[bool]] = {"forward": set(), "backward": set()}
    ops: list[str] = []

    class Ids(TorchDispatchMode):
        now = "forward"

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            ids[self.now].add(torch._C._current_graph_task_id() != -1)
            if self.now == "backward":
                ops.append(str(func).removeprefix("aten."))
            return func(*args, **(kwargs or {}))

    model = small()
    seen: dict[str, bool] = {}

    def note(where: str) -> Callable[..., None]:
        return lambda *a: seen.__setitem__(where, torch._C._current_graph_task_id() != -1)

    model[0].weight.register_hook(note("tensor hook of a leaf"))
    model[0].weight.register_post_accumulate_grad_hook(note("post-accumulate-grad hook"))
    model[1].register_full_backward_hook(note("module full backward hook"))
    model[1].register_full_backward_pre_hook(note("module full backward pre-hook"))
    with Ids() as mode:
        out = model(torch.randn(3, 8))
        out.register_hook(note("tensor hook of an interior tensor"))
        loss = F.mse_loss(out, torch.zeros(3, 4))
        loss.grad_fn.register_prehook(note("node prehook"))
        loss.grad_fn.register_hook(note("node posthook"))
        mode.now = "backward"
        loss.backward()
    rows = [
        ("backward operations appear", ", ".join(f"{n}×{k}" if k > 1 else n for n, k in Counter(ops).items())),
        ("`_current_graph_task_id() != -1` in the handler", f"forward {ids['forward']}, backward {ids['backward']}"),
    ]
    rows += [(f"`_current_graph_task_id() != -1` in a {where}", str(said)) for where, said in seen.items()]
    rows.append(("`_current_graph_task_id() != -1` outside", str(torch._C._current_graph_task_id() != -1)))
    return rows


@fact("dispatch", "`node.name()` that is running, from inside the handler: `torch._C._current_autograd_node()`")
def dispatch_node() -> Seen:
    names: list[str] = []

    class Nodes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            node = torch._C._current_autograd_node()
            names.append(f"{str(func).removeprefix('aten.')} in {node.name() if node is not None else None}")
            return func(*args, **(kwargs or {}))

    loss = F.mse_loss(small()(torch.randn(3, 8)), torch.zeros(3, 4))
    with Nodes():
        loss.backward()
    return "; ".join(names[:4])


@fact(
    "dispatch",
    "activation checkpointing of Sequential(Linear, GELU, Linear): global hooks as (in forward, in backward)",
)
def checkpoint_hooks() -> Seen:
    rows = []
    for reentrant in (False, True):
        log: list[tuple[str, bool]] = []

        def note(event: str, module: nn.Module, log: list[tuple[str, bool]] = log) -> None:
            log.append((f"{event} {type(module).__name__}", torch._C._current_graph_task_id() != -1))

        pre = module_hooks.register_module_forward_pre_hook(lambda m, a, note=note: note("pre", m))
        post = module_hooks.register_module_forward_hook(lambda m, a, o, note=note: note("post", m))
        with hooked(pre, post):
            checkpoint(small(), torch.randn(2, 8, requires_grad=True), use_reentrant=reentrant).sum().backward()
        counts = {name: (log.count((name, False)), log.count((name, True))) for name, _ in dict(log).items()}
        rows.append((f"use_reentrant={reentrant}", str(counts)))
    return rows


@fact("dispatch", "the user's line of a write, from the stack inside the handler (frames in torch skipped), for")
def dispatch_location() -> Seen:
    inside_torch = str(Path(torch.__file__).parent)
    found: dict[str, str] = {}

    class Where(TorchDispatchMode):
        case = ""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            frame = sys._getframe(1)
            while frame is not None and frame.f_code.co_filename.startswith(inside_torch):
                frame = frame.f_back
            found[self.case] = f"{Path(frame.f_code.co_filename).name}, in `{frame.f_code.co_name}`"
            return func(*args, **(kwargs or {}))

    p, layer = nn.Parameter(torch.zeros(3)), small()
    with Where() as mode:
        mode.case = "a write in user code"
        p.data.mul_(0.5)
        mode.case = "a backward operation"
        layer(torch.ones(2, 8)).sum().backward()
        mode.case = "an optimizer step"
        torch.optim.AdamW(layer.parameters()).step()
    return list(found.items())


# ---------------------------------------------------------------- a real training step


def vit_run(
    watch: Callable[[nn.Module], contextlib.AbstractContextManager[Any]], bf16: bool
) -> tuple[Tensor, list[float], float]:
    """Train 10 steps; return all weights and losses in one vector, the step times, and the next random number."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, num_classes=10, drop_path_rate=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    times, losses = [], []
    with watch(model):
        for _ in range(STEPS):
            x, y = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
            start = time.thread_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.thread_time() - start)
            losses.append(loss.detach())
    weights = torch.cat([p.detach().flatten() for p in model.parameters()] + [torch.stack(losses)])
    return weights, times[1:], float(torch.rand(()))


@contextlib.contextmanager
def with_global_hooks(model: nn.Module) -> Iterator[None]:
    def before(module: nn.Module, args: Any) -> None:
        return None

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        return None

    with hooked(
        module_hooks.register_module_forward_pre_hook(before),
        module_hooks.register_module_forward_hook(after, with_kwargs=True),
    ):
        yield


class Schemas(TorchDispatchMode):
    """What deep mode would do: look at the schema of every operation, cached per operation, and match storages."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.places = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.known: dict[Any, list[tuple[int, str]]] = {}
        self.count = self.writes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written = self.known.get(func)
        if written is None:
            arguments = enumerate(func._schema.arguments)
            written = [(i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write]
            self.known[func] = written
        self.count += 1
        for place, name in written:
            value = args[place] if place < len(args) else kwargs.get(name)
            self.writes += sum(t.untyped_storage().data_ptr() in self.places for t in tensors(value))
        return func(*args, **kwargs)


WATCHES: dict[str, Callable[[nn.Module], contextlib.AbstractContextManager[Any]]] = {
    "plain": lambda m: contextlib.nullcontext(),
    "plain again (control)": lambda m: contextlib.nullcontext(),
    "pass-through dispatch mode": lambda m: PassThrough(),
    "dispatch mode that matches storages": Schemas,
    "global forward pre-hook and hook": with_global_hooks,
}


@fact("training", "vit_tiny 32/4, batch 4, drop_path 0.1, AdamW, after --steps (default 10) against a plain run")
def training_identity() -> Seen:
    rows = []
    for bf16 in (False, True):
        plain: Tensor | None = None
        draws, times = {}, {name: [] for name in WATCHES}
        same = dict.fromkeys(WATCHES, True)
        for _ in range(2):
            for name, watch in WATCHES.items():
                weights, steps, draws[name] = vit_run(watch, bf16)
                plain = weights if plain is None else plain
                same[name] &= torch.equal(plain, weights)
                times[name] += steps
        base = statistics.median(times["plain"])
        for name, values in times.items():
            ratio = statistics.median(values) / base
            rows.append((f"{'bf16 autocast' if bf16 else 'float32'}, {name}",
                         f"bit-identical weights and losses: {same[name]}; next random number the same: "
                         f"{draws[name] == draws['plain']}; step time ×{ratio:.2f}"))  # fmt: skip
    return rows


@fact("training", "the same step: operations and parameter writes counted by the storage-matching mode, module calls")
def training_counts() -> Seen:
    modes: list[Schemas] = []
    calls: list[int] = []

    @contextlib.contextmanager
    def watch(model: nn.Module) -> Iterator[None]:
        with Schemas(model) as mode, hooked(module_hooks.register_module_forward_hook(lambda *a: calls.append(1))):
            modes.append(mode)
            yield

    vit_run(watch, False)
    mode = modes[0]
    operations, writes, modules = mode.count / STEPS, mode.writes / STEPS, len(calls) / STEPS
    return f"{operations:.0f} operations, {writes:.0f} writes to parameters, {modules:.0f} module calls a step"


@fact("training", "signatures of the global registrars")
def registrar_signatures() -> Seen:
    import inspect

    return [
        (f"`{name}`", f"`{inspect.signature(getattr(module_hooks, name))}`".replace("|", "or"))
        for name in ("register_module_forward_pre_hook", "register_module_forward_hook")
    ]


@fact("training", "processor time added per module call (median of 15 rounds of 2000 `nn.Identity` calls)")
def hook_cost() -> Seen:
    layer, x = nn.Identity(), torch.zeros(1)

    def loop() -> None:
        for _ in range(2000):
            layer(x)

    def with_pre() -> None:
        with hooked(module_hooks.register_module_forward_pre_hook(lambda m, a: None)):
            loop()

    def with_both() -> None:
        with with_global_hooks(layer):
            loop()

    def with_lookup() -> None:
        wanted: dict[int, str] = {}
        with hooked(
            module_hooks.register_module_forward_pre_hook(lambda m, a: wanted.get(id(m)) and None),
            module_hooks.register_module_forward_hook(lambda m, a, o: wanted.get(id(m)) and None),
        ):
            loop()

    seen = rounds({"none": loop, "pre": with_pre, "both": with_both, "lookup": with_lookup}, 15)
    micro = {name: value / 2000 * 1e6 for name, value in seen.items()}
    return (
        f"bare call {micro['none']:.2f} µs; with a global pre-hook +{micro['pre'] - micro['none']:.2f} µs; "
        f"pre-hook and hook (with_kwargs) +{micro['both'] - micro['none']:.2f} µs; both with a dict look-up by id "
        f"+{micro['lookup'] - micro['none']:.2f} µs"
    )


@fact(
    "training", "a global forward hook when `forward` raises, when a sub-method is called; order against module hooks"
)
def hook_coverage() -> Seen:
    log: list[str] = []

    class Faulty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError

        def features(self, x: Tensor) -> Tensor:
            return x

    with hooked(
        module_hooks.register_module_forward_pre_hook(lambda m, a: log.append("pre")),
        module_hooks.register_module_forward_hook(lambda m, a, o: log.append("post")),
        module_hooks.register_module_forward_hook(lambda m, a, o: log.append("post(always_call)"), always_call=True),
    ):
        with contextlib.suppress(ValueError):
            Faulty()(torch.zeros(1))
        raised = list(log)
        log.clear()
        Faulty().features(torch.zeros(1))
        method = list(log)
        log.clear()
        layer = nn.Identity()
        layer.register_forward_pre_hook(lambda m, a: log.append("module pre"))
        layer.register_forward_hook(lambda m, a, o: log.append("module post"))
        layer(torch.zeros(1))
    return [("raises", str(raised)), ("sub-method", str(method)), ("order", " → ".join(log))]


# ---------------------------------------------------------------- backward and the loss node


@contextlib.contextmanager
def wrapped_backward(log: list[str]) -> Iterator[None]:
    original = torch.autograd.backward

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else kwargs.get("tensors")
        inside = " nested" if torch._C._current_graph_task_id() != -1 else ""
        log.append(
            ("loss " if isinstance(first, Tensor) and first.dim() == 0 else "tensors ") + type(first).__name__ + inside
        )
        return original(*args, **kwargs)

    torch.autograd.backward = wrapper
    try:
        yield
    finally:
        torch.autograd.backward = original


@fact("loss", "`torch.autograd.backward` replaced by a pass-through wrapper: calls seen in")
def backward_wrapper() -> Seen:
    from accelerate import Accelerator
    from torch.autograd import backward as imported_before

    def seen(run: Callable[[nn.Module, Tensor], Any]) -> str:
        model, log = small(), []
        out = model(torch.ones(3, 8))
        with wrapped_backward(log):
            run(model, out)
        return f"{log or 'NOT SEEN'}, gradients there: {model[0].weight.grad is not None}"

    def lightning_style(model: nn.Module, out: Tensor) -> None:
        def hook(loss: Tensor, *args: Any, **kwargs: Any) -> None:  # the body of LightningModule.backward
            loss.backward(*args, **kwargs)

        hook(out.mean())

    def reentrant(model: nn.Module, out: Tensor) -> None:
        x = torch.ones(3, 8, requires_grad=True)
        checkpoint(model, x, use_reentrant=True).mean().backward()

    accelerator = Accelerator(cpu=True)
    scaler = torch.amp.GradScaler("cpu")
    return [
        ("`loss.backward()`", seen(lambda m, o: o.mean().backward())),
        ("Lightning's form, a hook that calls `loss.backward(*args, **kwargs)`", seen(lightning_style)),
        ("`accelerator.backward(loss)`", seen(lambda m, o: accelerator.backward(o.mean()))),
        ("`scaler.scale(loss).backward()`", seen(lambda m, o: scaler.scale(o.mean()).backward())),
        ("`torch.autograd.backward([a, b])`", seen(lambda m, o: torch.autograd.backward([o.mean(), o.sum()]))),
        ("`from torch.autograd import backward` done earlier", seen(lambda m, o: imported_before(o.mean()))),
        ("`torch.autograd.grad`", seen(lambda m, o: torch.autograd.grad(o.mean(), [*m.parameters()]))),
        ("reentrant checkpoint (one user call)", seen(reentrant)),
    ]


LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse_loss": F.mse_loss,
    "smooth_l1_loss": F.smooth_l1_loss,
    "l1_loss": F.l1_loss,
    "huber_loss": F.huber_loss,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
}


def chain(node: Any, depth: int = 6) -> list[Any]:
    """Return the nodes from the loss downwards, along the first operand."""
    found = []
    while node is not None and len(found) < depth and "AccumulateGrad" not in node.name():
        found.append(node)
        node = node.next_functions[0][0] if node.next_functions else None
    return found


def saved(node: Any) -> str:
    names = [n.removeprefix("_saved_") for n in dir(node) if n.startswith("_saved_")]
    return f"{node.name()}[{', '.join(names)}]"


@fact("loss", "nodes and their `_saved_*` before backward")
def saved_attributes() -> Seen:
    torch.manual_seed(0)
    z, target = torch.randn(3, 4, requires_grad=True), torch.rand(3, 4)
    rows = []
    for name, loss in LOSSES.items():
        for reduction in ("mean", "sum", "none"):
            value = loss(z * 1.0, target, reduction=reduction)
            value = value if reduction != "none" else value.mean()
            rows.append((f"F.{name}({reduction})", " ← ".join(saved(n) for n in chain(value.grad_fn)[:-1])))
    labels = torch.tensor([0, 1, 2])
    others = {
        "F.cosine_similarity().mean()": lambda x: -F.cosine_similarity(x, target).mean(),
        "F.cross_entropy(class indices)": lambda x: F.cross_entropy(x, labels),
        "F.cross_entropy(probabilities)": lambda x: F.cross_entropy(x, target.softmax(-1)),
        "DINO form `-(q*log_softmax(x)).sum(-1).mean()`": lambda x: -(target * F.log_softmax(x, -1)).sum(-1).mean(),
        "F.kl_div": lambda x: F.kl_div(F.log_softmax(x, -1), target, reduction="batchmean"),
        "`(x - target).pow(2).mean()`": lambda x: (x - target).pow(2).mean(),
        "`(x - target).abs().mean()`": lambda x: (x - target).abs().mean(),
        "mse_loss times a weight, plus another": lambda x: 0.5 * F.mse_loss(x, target) + x.mean(),
    }
    rows += [(name, " ← ".join(saved(n) for n in chain(f(z * 1.0).grad_fn, 9))) for name, f in others.items()]
    return rows


@fact("loss", "`_saved_self` / `_saved_target` of mse_loss")
def saved_tensors() -> Seen:
    torch.manual_seed(0)
    z, w = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    out, target = z * 1.0, w * 1.0
    node = F.mse_loss(out, target).grad_fn
    mine, his = node._saved_self, node._saved_target
    rows = [
        ("same storage as the operand", str(mine.data_ptr() == out.data_ptr())),
        ("same Python object / equal `grad_fn`", f"{mine is out} / {mine.grad_fn is out.grad_fn}"),
        ("target with a graph: `requires_grad`, grad_fn", f"{his.requires_grad}, {his.grad_fn.name()}"),
        ("target with a graph: next_functions", str([n.name() if n else None for n, _ in node.next_functions])),
    ]
    detached = F.mse_loss(out, target.detach()).grad_fn
    rows.append(
        (
            "detached target: `requires_grad`, grad_fn",
            f"{detached._saved_target.requires_grad}, {detached._saved_target.grad_fn}",
        )
    )
    rows.append(("detached target: next_functions", str([n.name() if n else None for n, _ in detached.next_functions])))
    with torch.autocast("cpu", torch.bfloat16):
        cast = F.mse_loss((out @ torch.ones(4, 4)), target.detach()).grad_fn
    for name, y in {"with a graph": target, "detached": target.detach()}.items():
        below = [n.name() if n else None for n, _ in (out - y).grad_fn.next_functions]
        rows.append((f"`out - target` (SubBackward0, saves nothing), target {name}: next_functions", str(below)))
    rows.append(
        ("under bf16 autocast", f"dtype {cast._saved_self.dtype}, operand node {cast.next_functions[0][0].name()}")
    )
    broad = F.mse_loss(out.unsqueeze(0) * torch.ones(2, 1, 1), target.detach().unsqueeze(0).expand(2, 3, 4)).grad_fn
    rows.append(
        ("expanded target: shape, stride", f"{tuple(broad._saved_target.shape)}, {broad._saved_target.stride()}")
    )

    reads, gradients = [], []
    for read in (False, True):
        model = small()
        loss = F.mse_loss(model(torch.ones(3, 8)), torch.zeros(3, 4))
        if read:
            reads.append((loss.grad_fn._saved_self.sum(), loss.grad_fn._saved_target.sum()))
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    rows.append(("reading them changes the gradients", str(not torch.equal(*gradients))))

    x = torch.randn(1000)
    ref = weakref.ref(x)
    loss = F.mse_loss(z.sum() * torch.ones(1000), x)
    value = loss.grad_fn._saved_target
    kept_node, _ = loss.grad_fn, value.sum()
    del x, value
    kept = ref() is not None
    loss.backward()
    try:
        kept_node._saved_target  # noqa: B018
        after = "still readable"
    except RuntimeError as error:
        after = f"RuntimeError: {str(error)[:70]}…"
    rows.append(("after backward", after))
    rows.append(("memory: target alive while the graph is / after backward with the node still held",
                 f"{kept} / {ref() is not None}"))  # fmt: skip

    a = torch.randn(4, requires_grad=True)
    b = a * 1.0
    node = F.mse_loss(b, torch.zeros(4)).grad_fn
    b.data.mul_(2)
    try:
        said = f"readable after `.data.mul_` (the changed values): {torch.equal(node._saved_self, b)}"
        b.mul_(2)
        node._saved_self  # noqa: B018
    except RuntimeError as error:
        said += f"; after `mul_` RuntimeError: {str(error)[:60]}…"
    rows.append(("operand changed in place between forward and read", said))
    log: list[str] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: log.append("unpack") or t):
        node = F.mse_loss(a * 1.0, torch.zeros(4)).grad_fn
    node._saved_self  # noqa: B018
    rows.append(("saved_tensors_hooks active (offloading): one read calls unpack", f"{len(log)}×"))
    return rows


@fact("loss", "under a TorchDispatchMode: is reading `_saved_target` or walking `next_functions` an operation")
def saved_in_mode() -> Seen:
    z = torch.randn(3, requires_grad=True)
    node = F.mse_loss(z * 1.0, torch.zeros(3)).grad_fn
    with Writes(0) as mode:
        node._saved_target  # noqa: B018
        node.next_functions  # noqa: B018
    return str(mode.all or "no operation seen")


def record(seen: list[str], grads: tuple[Tensor, ...]) -> None:
    seen.append(f"{type(grads).__name__} of {[tuple(g.shape) for g in grads]}, norm {float(grads[0].norm()):.3f}")


@fact("loss", "`node.register_prehook` on")
def node_prehooks() -> Seen:
    def run(where: str) -> tuple[Tensor, list[str]]:
        model, seen = small(), []
        out = model(torch.ones(3, 8))
        loss = F.mse_loss(out, torch.zeros(3, 4))
        nodes = {"the loss node": loss.grad_fn, "the node of the model's output": out.grad_fn}
        if where in nodes:
            nodes[where].register_prehook(partial(record, seen))
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()]), seen

    plain, _ = run("")
    rows = []
    for where in ("the loss node", "the node of the model's output"):
        weights, seen = run(where)
        rows.append((where, f"incoming {seen[0]}; gradients bit-identical: {torch.equal(plain, weights)}"))
    return rows


# ---------------------------------------------------------------- torch.compile


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


def compiled_case(backend: str, when: str) -> str:
    """Say which modules a global hook sees, and how often Dynamo compiled, when it is added before or after."""
    fresh_dynamo()
    frames: list[str] = []
    log: list[str] = []
    model = Net()

    def counting(graph: Any, inputs: Any) -> Any:
        frames.append("compile")
        return graph.forward if backend == "eager" else inductor(graph, inputs)

    inductor = torch._dynamo.lookup_backend("inductor") if backend == "inductor" else None
    compiled = torch.compile(model, backend=counting)

    def note(module: nn.Module, args: Any, output: Any = None) -> None:
        log.append(type(module).__name__)

    handles = []
    x = torch.randn(2, 8)
    if when == "after":
        compiled(x)
    before = len(frames)
    handles.append(module_hooks.register_module_forward_hook(note))
    with hooked(*handles):
        compiled(x)
        first, first_frames = Counter(log), len(frames) - before
        log.clear()
        compiled(x)
        second, second_frames = Counter(log), len(frames) - before - first_frames
    compiled(x)
    breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    return (
        f"first call {dict(first)} with {first_frames} compilations, second {dict(second)} with {second_frames}; "
        f"after remove() {len(frames) - before - first_frames - second_frames} more; graph breaks {breaks}"
    )


@fact("compile", "global forward hook that appends to a list, `torch.compile(model)`")
def compiled_hooks() -> Seen:
    return [
        (f"backend={backend}, hook added {when} the first call", compiled_case(backend, when))
        for backend in ("eager", "inductor")
        for when in ("before", "after")
    ]


@fact("compile", "what a global forward hook does to an inductor model: outputs against the same model without hooks")
def compiled_numbers() -> Seen:
    import timm

    log: list[str] = []

    def appends(module: nn.Module, args: Any, output: Any) -> None:
        log.append(type(module).__name__)

    def steps_aside(module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        log.append(type(module).__name__)

    @torch.compiler.disable
    def disabled(module: nn.Module, args: Any, output: Any) -> None:
        log.append(type(module).__name__)

    def run(hook: Any) -> tuple[Tensor, str]:
        fresh_dynamo()
        torch.manual_seed(0)
        log.clear()
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=10)
        handles = [module_hooks.register_module_forward_hook(hook)] if hook else []
        compiled = torch.compile(model)
        x = torch.randn(2, 3, 32, 32)
        with hooked(*handles):
            out = compiled(x)
            log.clear()
            out = compiled(x)
        out.pow(2).sum().backward()
        seen = (
            f"{len(log)} module calls seen ({', '.join(sorted(set(log)))})"
            if len(set(log)) < 4
            else f"{len(log)} calls"
        )
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        return torch.cat([out.detach().flatten(), gradient]), f"{seen}, graph breaks {breaks}"

    plain, _ = run(None)
    again, _ = run(None)
    rows = [("no hook, compiled again (control)", f"bit-identical: {torch.equal(plain, again)}")]
    for name, hook in {
        "a hook that appends (traced by Dynamo)": appends,
        "a hook that returns at once if `torch.compiler.is_compiling()`": steps_aside,
        "a hook marked `torch.compiler.disable`": disabled,
    }.items():
        got, seen = run(hook)
        far = float((got - plain).abs().max() / plain.abs().max())
        rows.append((name, f"{seen}; output and gradients bit-identical: {torch.equal(plain, got)} (rel. {far:.0e})"))
    return rows


@fact("compile", "a loss computed inside the compiled region: `loss.grad_fn`")
def compiled_loss_node() -> Seen:
    rows = []
    for backend in ("eager", "aot_eager"):
        fresh_dynamo()
        model, target = Net(), Net()

        @torch.compile(backend=backend)
        def loss_of(x: Tensor, model: nn.Module = model, target: nn.Module = target) -> Tensor:
            with torch.no_grad():
                y = target(x)
            return F.mse_loss(model(x), y)

        node = loss_of(torch.randn(2, 8)).grad_fn
        leaves = [n.name().split("::")[-1] for n, _ in node.next_functions if n is not None]
        rows.append((f"backend={backend}", f"{saved(node)[:60]}, next_functions {dict(Counter(leaves))}"))
    return rows


@fact("compile", "global forward hook marked `torch.compiler.disable`, backend=eager")
def compiled_disabled_hook() -> Seen:
    fresh_dynamo()
    log: list[str] = []

    @torch.compiler.disable
    def note(module: nn.Module, args: Any, output: Any) -> None:
        log.append(type(module).__name__)

    compiled = torch.compile(Net(), backend="eager")
    with hooked(module_hooks.register_module_forward_hook(note)):
        compiled(torch.randn(2, 8))
    breaks = dict(torch._dynamo.utils.counters["graph_break"])
    return f"sees {dict(Counter(log))}; graph breaks {sum(breaks.values())}"


@fact("compile", "`model.compile()` (in place) and a per-module forward hook; `fullgraph=True` with a global hook")
def compiled_in_place() -> Seen:
    fresh_dynamo()
    log: list[str] = []
    model = Net()
    model.compile(backend="eager")
    with hooked(module_hooks.register_module_forward_hook(lambda m, a, o: log.append(type(m).__name__))):
        model(torch.randn(2, 8))
    in_place = dict(Counter(log))
    fresh_dynamo()
    log.clear()
    full = torch.compile(Net(), backend="eager", fullgraph=True)
    with hooked(module_hooks.register_module_forward_hook(lambda m, a, o: log.append(type(m).__name__))):
        try:
            full(torch.randn(2, 8))
            said = f"works, sees {dict(Counter(log))}"
        except torch._dynamo.exc.Unsupported as error:
            said = f"Unsupported: {str(error).splitlines()[0][:90]}"
    return [("`model.compile()`: global hook sees", str(in_place)), ("fullgraph", said)]


@fact("compile", "per-module forward hook on an inner module, `torch.compile(model, backend='eager')`")
def compiled_module_hooks() -> Seen:
    rows = []
    for when in ("before", "after"):
        fresh_dynamo()
        model, log = Net(), []
        compiled = torch.compile(model, backend="eager")
        x = torch.randn(2, 8)
        if when == "after":
            compiled(x)
        handle = model.first.register_forward_hook(lambda m, a, o, log=log: log.append(1))
        compiled(x)
        handle.remove()
        rows.append((f"added {when} the first call", f"fires {len(log)}×"))
    fresh_dynamo()
    compiled, log = torch.compile(Net(), backend="eager"), []
    compiled(x)
    compiled.register_forward_hook(lambda m, a, o: log.append(1))
    compiled(x)
    rows.append(("on the OptimizedModule, after the first call", f"fires {len(log)}×"))
    return rows


@fact("compile", "a compiled call under an active TorchDispatchMode")
def compiled_dispatch() -> Seen:
    rows = []
    for backend in ("eager", "inductor"):
        fresh_dynamo()
        runs: list[str] = []
        model, x = Net(), torch.randn(2, 8)
        inductor = torch._dynamo.lookup_backend("inductor")

        def counting(
            graph: Any, inputs: Any, runs: list[str] = runs, backend: str = backend, inductor: Any = inductor
        ) -> Any:
            runs.append("compile")
            inner = graph.forward if backend == "eager" else inductor(graph, inputs)

            def run(*args: Any) -> Any:
                runs.append("run")
                return inner(*args)

            return run

        compiled = torch.compile(model, backend=counting)
        plain = compiled(x)
        runs.clear()
        with Writes(0) as mode:
            out = compiled(x)
            loss = out.pow(2).mean()
            loss.backward()
        inside = Counter(runs)
        runs.clear()
        compiled(x)
        far = float((out - plain).abs().max() / plain.abs().max())
        used = dict(inside) or "NOT used (eager)"
        said = (
            f"compiled code: {used}; operations seen: {' '.join(mode.all[:8])} …; output bit-identical to the compiled "
        )
        said += f"one: {torch.equal(plain, out)} (rel. {far:.0e}); after the mode: {dict(Counter(runs))}"
        rows.append((f"backend={backend}, compiled before the mode", said))
        fresh_dynamo()
        runs.clear()
        compiled = torch.compile(Net(), backend=counting)
        with Writes(0) as mode:
            compiled(x)
        first = Counter(runs)
        runs.clear()
        compiled(x)
        said = f"{dict(first) or 'NOT compiled (eager)'}; first call after the mode: {dict(Counter(runs))}"
        rows.append((f"backend={backend}, first call under the mode", said))
    return rows


class Quiet(Writes):
    """The same, but Dynamo is told to keep using the compiled code."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True


@fact("compile", "the same with a mode whose `ignore_compile_internals()` returns True (private, new)")
def compiled_dispatch_ignored() -> Seen:
    rows = []
    for backend in ("eager", "inductor"):
        fresh_dynamo()
        model, x = Net(), torch.randn(2, 8)
        compiled = torch.compile(model, backend=backend)
        plain = compiled(x)
        with Quiet(0) as mode:
            out = compiled(x)
            forward = len(mode.all)
            out.pow(2).mean().backward()
        said = f"output bit-identical: {torch.equal(plain, out)}; forward operations seen: "
        said += f"{' '.join(mode.all[:forward]) or 'none'}; then {len(mode.all) - forward} more"
        rows.append((f"backend={backend}", said))
    p, q = nn.Parameter(torch.ones(64)), torch.zeros(64)

    @torch.compile
    @torch.no_grad()
    def update(p: Tensor, q: Tensor) -> None:
        torch._foreach_lerp_([p], [q], 0.5)

    update(p, q)
    value = p.detach().clone()
    with Quiet(p.untyped_storage().data_ptr()) as mode:
        update(p, q)
    rows.append(("a compiled EMA update (inductor)",
                 f"writes seen: {mode.found or 'NONE'}, values changed: {not torch.equal(value, p)}"))  # fmt: skip
    return rows


@fact("compile", "a compiled EMA update (foreach) under an active TorchDispatchMode, backend=inductor")
def compiled_update() -> Seen:
    fresh_dynamo()
    p, q = nn.Parameter(torch.ones(64)), torch.zeros(64)

    @torch.no_grad()
    def update(p: Tensor, q: Tensor) -> None:
        torch._foreach_lerp_([p], [q], 0.5)

    compiled = torch.compile(update)
    compiled(p, q)
    version, value = p._version, p.detach().clone()
    compiled(p, q)
    rows = [("without the mode", f"`_version` {p._version - version:+d}, values changed: {not torch.equal(value, p)}")]
    with Writes(p.untyped_storage().data_ptr()) as mode:
        compiled(p, q)
    rows.append(("with the mode", f"writes seen: {mode.found or 'NONE'}; all: {' '.join(mode.all) or 'nothing'}"))
    return rows


# ---------------------------------------------------------------- fingerprints


@fact("fingerprint", "`torch.take(p.detach(), idx)` on parameters that are not contiguous")
def take_strided() -> Seen:
    torch.manual_seed(0)
    base, rows = torch.randn(6, 8), []
    for name, p in {
        "transposed": nn.Parameter(base.t()),
        "column slice": nn.Parameter(base[:, 1:5]),
        "channels_last": nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)),
        "expanded": base[:1].expand(6, 8),
    }.items():
        index = torch.randperm(p.numel())[:16]
        right = torch.equal(torch.take(p.detach(), index), p.detach().reshape(-1)[index])
        rows.append((name, f"contiguous: {p.is_contiguous()}; logical (row-major) order: {right}"))
    return rows


@fact("fingerprint", "64 coordinates from each of 150 tensors of 384×384 (vit_small-like), one float32 vector")
def take_cost() -> Seen:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(384, 384)) for _ in range(150)]
    index = [torch.randint(384 * 384, (64,)) for _ in weights]
    buffer = torch.empty(150 * 64)
    views = list(buffer.view(150, 64).unbind())
    student = [nn.Parameter(torch.randn(384, 384)) for _ in range(150)]

    @torch.no_grad()
    def with_cat() -> Tensor:
        return torch.cat([torch.take(p, i) for p, i in zip(weights, index, strict=True)])

    @torch.no_grad()
    def with_out() -> None:
        for p, i, view in zip(weights, index, views, strict=True):
            torch.take(p, i, out=view)

    @torch.no_grad()
    def with_flat_index() -> Tensor:
        return torch.cat([p.view(-1)[i] for p, i in zip(weights, index, strict=True)])

    @torch.no_grad()
    def with_strides() -> Tensor:
        return torch.cat([p.view(-1)[7::2304] for p in weights])

    def full_clone() -> list[Tensor]:
        return [p.detach().clone() for p in weights]

    @torch.no_grad()
    def ema() -> None:
        torch._foreach_lerp_(weights, student, 0.004)

    ways = {
        "take+cat": with_cat,
        "take(out=)": with_out,
        "view(-1)[i]+cat": with_flat_index,
        "fixed stride+cat": with_strides,
        "clone of all": full_clone,
        "one foreach EMA of all": ema,
    }
    seen = rounds(ways, 15)
    base = seen["take+cat"]
    return [(name, f"{value * 1e6:.0f} µs (×{value / base:.2f} of take+cat)") for name, value in seen.items()]


@fact("fingerprint", "does sampling consume random numbers, or raise `_version`")
def take_side_effects() -> Seen:
    p, index = nn.Parameter(torch.randn(100)), torch.arange(10)
    state, version = torch.get_rng_state(), p._version
    torch.cat([torch.take(p.detach(), index)])
    own = torch.Generator().manual_seed(1)
    torch.randint(100, (10,), generator=own)
    same = torch.equal(state, torch.get_rng_state())
    return (
        f"global random state unchanged: {same} (indices from an own Generator); `_version` {p._version - version:+d}"
    )


# ---------------------------------------------------------------- report


def main() -> int:
    global STEPS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    STEPS = args.steps
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, CPU, one thread, Python {sys.version.split()[0]}")
    for group in args.only:
        print(f"\n### {group}\n\n| fact | seen |\n|---|---|")
        for what, function in GROUPS[group]:
            seen = function()
            for case, said in [("", seen)] if isinstance(seen, str) else seen:
                print(f"| {what} {case}".rstrip() + f" | {said} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
