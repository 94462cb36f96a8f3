"""How an activation is taken away that a norm is to contain: asked first, done later.

Where the module that calls the activation calls it under a name of its own, nn.Identity takes that
name. A function, or an nn.ReLU that a forward calls at several places, has no such name: then the
calling module alone becomes an fx.GraphModule of the same code without these calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from normbench.models.exchange.rewriting import Recorded, Rewriting, rewriting_of
from normbench.models.exchange.tracing import ActivationCall, Traced


@dataclass
class Removals:
    """Collects the activations to take away from a network, and takes them away.

    `refusal` looks at an activation and changes nothing; `carry_out` changes the network.
    """

    model: nn.Module
    traced: Traced
    image_shape: Sequence[int]
    _named: list[tuple[nn.Module, str]] = field(default_factory=list)
    _rewritings: dict[nn.Module, Rewriting] = field(default_factory=dict)
    _recorded: Recorded | None = None

    def refusal(self, call: ActivationCall) -> str | None:
        """Why the activation cannot be taken away; None where it can, which is then planned."""
        caller = call.caller
        if self.traced.num_calls[caller] > 1:
            return f"the activation after it is in a {type(caller).__name__} that is used twice"
        name = self._name_of_its_own(call)
        if name is not None:
            self._named.append((caller, name))
            return None
        if caller not in self._rewritings:
            if self._recorded is None:
                callers = {other.caller for other in self.traced.activations}
                self._recorded = Recorded(self.model, list(callers), self.image_shape)
            rewriting = rewriting_of(caller, self.traced, self._recorded)
            if isinstance(rewriting, str):
                return f"the activation after it cannot be taken away: {rewriting}"
            self._rewritings[caller] = rewriting
        self._rewritings[caller].erase(call.ordinal)
        return None

    def carry_out(self, model: nn.Module) -> nn.Module:
        """Takes them from the model with its new norms; returns it, new if it called one itself."""
        for caller, name in self._named:
            setattr(caller, name, nn.Identity())
        # Inner modules first: the graph of an outer module takes them by their names.
        for module in reversed(list(model.modules())):
            if module in self._rewritings:
                model = put(model, module, _of_graph(module, self._rewritings[module].graph))
        return model

    def _name_of_its_own(self, call: ActivationCall) -> str | None:
        """The name under which the caller, and nobody else, calls the activation once."""
        if call.module is None:
            return None
        calls = [other for other in self.traced.activations if other.module is call.module]
        # Who reaches into another module for its activation would find it gone.
        if not all(_names_in(other.caller, call.module) for other in calls):
            return None
        if type(call.caller).forward is nn.Sequential.forward:
            return list(call.caller._modules)[call.position]
        names = _names_in(call.caller, call.module)
        num_calls = sum(other.caller is call.caller for other in calls)
        return names[0] if len(names) == num_calls == 1 else None


def put(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Gives `new` every place of `old` in the model; returns the model, or `new` for the model."""
    for holder in list(model.modules()):
        for name in _names_in(holder, old):
            setattr(holder, name, new)
    return new if old is model else model


def _names_in(holder: nn.Module, module: nn.Module) -> list[str]:
    """The names under which the holder itself has the module."""
    return [name for name, child in holder._modules.items() if child is module]


def _of_graph(module: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """The module with the graph's forward: its parts and attributes are the same objects."""
    made = fx.GraphModule(module, graph, class_name=type(module).__name__)
    own = vars(made).keys() - vars(nn.Module()).keys()
    vars(made).update({name: value for name, value in vars(module).items() if name not in own})
    return made
