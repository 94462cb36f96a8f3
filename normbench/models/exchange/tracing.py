"""What stands around a norm: the layer that feeds it, the activation that follows (torch.fx)."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from normbench.models.exchange.kinds import activation_of, is_activation, is_norm

# Layers whose weights or biases a norm may ask for; their subclasses are not looked into.
FEEDERS = (nn.Conv2d, nn.Linear)
# Stands for the images among the arguments of the network.
IMAGES = object()


@dataclass(frozen=True)
class ActivationCall:
    """A call of an activation, and where it is made.

    kind: the class or function, such as ReLU or relu.
    caller: the module whose forward makes the call.
    ordinal: how many calls of activations this forward makes before.
    module: the activation, None for a function or method.
    position: how many modules the caller has called before.
    """

    kind: str
    caller: nn.Module
    ordinal: int
    module: nn.Module | None
    position: int


@dataclass(frozen=True)
class Neighbours:
    """What feeds a norm and nothing else, and what follows it and nothing else; None if unlike."""

    feeder: nn.Module | None = None
    activation: ActivationCall | None = None


@dataclass(frozen=True)
class Traced:
    """A network's calls.

    neighbours: what stands around each norm.
    activations: all calls of activations.
    num_calls: how often each module is called.
    fixed_arguments: by module and name, the arguments of its last call that are no tensors.
    """

    neighbours: dict[nn.Module, Neighbours]
    activations: list[ActivationCall]
    num_calls: Counter[nn.Module]
    fixed_arguments: dict[nn.Module, dict[str, Any]]


class CallTracer(fx.Tracer):
    """Traces down to norms, activations and torch's layers; a node's meta says who calls it.

    opaque: modules without a norm inside are not looked into either.
    """

    def __init__(self, *, opaque: bool) -> None:
        super().__init__()
        self.opaque = opaque
        self.callers: list[nn.Module] = []
        self.calls_of: Counter[nn.Module] = Counter()
        self.calls_by: Counter[nn.Module] = Counter()
        self.fixed_arguments: dict[nn.Module, dict[str, Any]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if is_norm(m) or is_activation(m) or isinstance(m, FEEDERS):
            return True
        if self.opaque and not any(map(is_norm, m.modules())):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.callers.append(m)
            self.fixed_arguments[m] = _fixed_arguments(m, args, kwargs)
            try:
                return forward(*args, **kwargs)
            finally:
                self.callers.pop()

        caller = self.callers[-1]
        self.calls_of[m] += 1
        self.calls_by[caller] += 1
        return super().call_module(m, called, args, kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        caller = self.callers[-1]
        node.meta["caller"] = caller
        node.meta["position"] = self.calls_by[caller] - 1
        return node

    def graph_of(self, model: nn.Module) -> fx.Graph:
        """The graph of the model's forward for its first argument, the others at defaults."""
        self.callers = [model]
        fixed = _fixed_arguments(model, (IMAGES,), {})
        self.fixed_arguments[model] = fixed
        parameters = inspect.signature(model.forward).parameters
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        fixed = {name: fixed[name] for name in fixed if parameters[name].kind not in variadic}
        with no_new_attributes(model):
            return self.trace(model, concrete_args=fixed or None)


def trace(model: nn.Module) -> Traced:
    """The calls of the model in its present mode. Raises whatever tracing raises, of any kind."""
    try:
        tracer = CallTracer(opaque=False)
        graph = tracer.graph_of(model)
    except Exception:
        tracer = CallTracer(opaque=True)
        graph = tracer.graph_of(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = dict(_activation_calls(graph, modules))
    neighbours = {}
    for node in graph.nodes:
        if node.op == "call_module" and is_norm(modules[node.target]):
            feeder = _feeder(node, modules, tracer.calls_of)
            following = _single_user(node, modules)
            activation = calls.get(following) if following is not None else None
            neighbours[modules[node.target]] = Neighbours(feeder, activation)
    activations = list(calls.values())
    return Traced(neighbours, activations, tracer.calls_of, tracer.fixed_arguments)


def own_graph(module: nn.Module, fixed_arguments: dict[str, Any]) -> fx.Graph:
    """The graph of the module's own forward, in which the modules inside are single calls.

    The graph raises where it is called with other values of the fixed arguments.
    """
    with no_new_attributes(module):
        graph = _OwnTracer().trace(module, concrete_args=fixed_arguments or None)
    for node in graph.nodes:
        # torch.fx numbers the names of fixed arguments, by which the caller may give them.
        name = str(node.target).rpartition("_")[0]
        if node.op == "placeholder" and name in fixed_arguments:
            node.target = name
        if getattr(node.target, "__name__", "") == "_assert_is_none":
            # Once a graph that calls torch's function is unpickled, torch.fx traces no more.
            node.target = assert_is_none
            node.meta["is_wrapped"] = True
    return graph


def assert_is_none(value: object, message: str) -> None:
    """Raises AssertionError where an argument that a graph has fixed is given after all."""
    assert value is None, message


class _OwnTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _fixed_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call that hold no traced value, and the defaults of those not given."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if not _is_traced(value)}


def _is_traced(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_traced, value))
    return value is IMAGES or isinstance(value, fx.Proxy)


@contextmanager
def no_new_attributes(module: nn.Module) -> Iterator[None]:
    """Removes the tensors that torch.fx leaves on a module whose forward makes constants."""
    before = set(vars(module))
    try:
        yield
    finally:
        for name in vars(module).keys() - before:
            delattr(module, name)


def _activation_calls(
    graph: fx.Graph, modules: dict[str, nn.Module]
) -> Iterator[tuple[fx.Node, ActivationCall]]:
    ordinals: Counter[nn.Module] = Counter()
    for node in graph.nodes:
        kind = activation_of(node, modules)
        if kind is not None:
            caller = node.meta["caller"]
            module = modules[str(node.target)] if node.op == "call_module" else None
            position = node.meta["position"]
            yield node, ActivationCall(kind, caller, ordinals[caller], module, position)
            ordinals[caller] += 1


def _feeder(
    norm: fx.Node, modules: dict[str, nn.Module], num_calls: Counter[nn.Module]
) -> nn.Module | None:
    """The convolution or linear layer whose only call goes into the norm and nowhere else."""
    before = norm.all_input_nodes[0] if norm.all_input_nodes else None
    while before is not None and _is_identity(before, modules) and len(before.users) == 1:
        before = before.all_input_nodes[0]
    if before is None or before.op != "call_module" or len(before.users) != 1:
        return None
    module = modules[str(before.target)]
    return module if isinstance(module, FEEDERS) and num_calls[module] == 1 else None


def _single_user(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """What alone takes the node's value, beyond any nn.Identity."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if not _is_identity(node, modules):
            return node
    return None


def _is_identity(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and type(modules[str(node.target)]) is nn.Identity
