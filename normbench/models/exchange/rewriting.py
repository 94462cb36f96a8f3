"""A module's own forward as a graph: only where the graph is known to compute the same."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from normbench.errors import first_line
from normbench.models.exchange.found import in_mode, run_images
from normbench.models.exchange.kinds import activation_of
from normbench.models.exchange.tracing import Traced, own_graph

# Arguments that torch.fx fixes in a graph, which then refuses others.
FIXED = (bool, int, float, str, type(None))


@dataclass
class Rewriting:
    """A module's own graph, and the nodes of its activations as they were traced."""

    graph: fx.Graph
    activations: list[fx.Node]

    def erase(self, ordinal: int) -> None:
        """Takes the call of the activation with this number from the graph."""
        node = self.activations[ordinal]
        node.replace_all_uses_with(node.all_input_nodes[0])
        self.graph.erase_node(node)


class Recorded:
    """What went into modules and came out, of an image of noise in evaluation mode."""

    def __init__(
        self, model: nn.Module, modules: Sequence[nn.Module], image_shape: Sequence[int]
    ) -> None:
        self.calls: dict[nn.Module, tuple[Any, Any, Any]] = {}
        self._inputs: dict[nn.Module, Any] = {}
        hooks = []
        for module in modules:
            hooks.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            hooks.append(module.register_forward_hook(self._after))
        try:
            run_images(model, image_shape, training=False, noise=True)
        finally:
            for hook in hooks:
                hook.remove()

    # What is kept are copies, since activations in place may follow.
    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._inputs[module] = copy.deepcopy((args, kwargs))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.calls[module] = (*self._inputs.pop(module), copy.deepcopy(output))


def rewriting_of(module: nn.Module, traced: Traced, recorded: Recorded) -> Rewriting | str:
    """The module's graph for training and evaluation, or the reason why it has none.

    The graph makes the traced calls of activations, and of the recorded input the recorded output.
    """
    name = type(module).__name__
    fixed = traced.fixed_arguments[module]
    if not all(isinstance(value, FIXED) for value in fixed.values()):
        return f"the forward of {name} takes arguments that are neither tensors nor numbers"
    graphs = []
    for training in (True, False):
        try:
            with in_mode(module, training):
                graphs.append(own_graph(module, fixed))
        except Exception as error:
            return f"torch.fx cannot trace {name} ({first_line(error)})"
    if str(graphs[0]) != str(graphs[1]):
        return f"the forward of {name} asks whether it is in training"
    graph = graphs[0]
    if any("_tensor_constant" in str(node.target) for node in graph.nodes):
        return f"the forward of {name} makes a tensor of its own"
    modules = dict(module.named_modules(remove_duplicate=False))
    nodes = [node for node in graph.nodes if activation_of(node, modules) is not None]
    calls = [call.kind for call in traced.activations if call.caller is module]
    is_same = [activation_of(node, modules) for node in nodes] == calls
    if not is_same or not _computes(graph, module, recorded):
        return f"the forward of {name} depends on what its input is"
    return Rewriting(graph, nodes)


@torch.no_grad()
def _computes(graph: fx.Graph, module: nn.Module, recorded: Recorded) -> bool:
    """Whether the graph makes the recorded output of the recorded input."""
    if module not in recorded.calls:
        return False
    args, kwargs, wanted = recorded.calls[module]
    args, kwargs = copy.deepcopy((args, kwargs))
    with in_mode(module, training=False):
        try:
            found = fx.GraphModule(module, graph)(*args, **kwargs)
        except Exception:
            return False
    return _is_same(found, wanted)


def _is_same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Tensor):
        return isinstance(found, Tensor) and torch.allclose(found, wanted, equal_nan=True)
    if isinstance(wanted, list | tuple):
        is_alike = isinstance(found, list | tuple) and len(found) == len(wanted)
        return is_alike and all(map(_is_same, found, wanted))
    return bool(found == wanted)
