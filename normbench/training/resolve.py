"""What a configuration means on this machine with these data: every question asked before any work.

After `resolve` no value says auto or fast, every option has passed its registry, the data are known
by content, and the norm works at every site of the model. Only then is the run id final.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from normbench.atomic import disk_errors
from normbench.config.places import default_cache_dir, user_path
from normbench.config.schema import RunConfig, in_processes
from normbench.config.sections import Choice
from normbench.data import DataHome, Source, sources
from normbench.data.cache import cached_source
from normbench.errors import NormbenchError, Unsupported
from normbench.models import Layers, Site, models, norm_sites, unsupported
from normbench.models.exchange import Exchange, too_few
from normbench.models.undrawn import without_drawing
from normbench.norms import NormSpec, norms
from normbench.registry import Registry
from normbench.tasks.registry import tasks
from normbench.trackers.follow import check_trackers
from normbench.training.appearance import check_appearance
from normbench.training.build import check_batch, check_pixels, network_of, task_of
from normbench.training.evaluations import check_evaluations
from normbench.training.optim import check_decay, optimizers, schedule
from normbench.training.resolved_runtime import runtime_as_it_runs


def resolve(config: RunConfig) -> tuple[RunConfig, Source]:
    """The configuration as it will run, and its data source. A second time changes nothing.

    Raises NormbenchError for whatever cannot work, before anything is written.
    """
    return Resolver().resolve(config)


@dataclass
class Resolver:
    """Resolves configurations, and remembers the data and models that it has looked at.

    device: `cpu` or `cuda` where the runs will be on other machines. Only those machines can say
    whether bf16 is native or a compiler is there, and will be asked again.
    """

    device: str | None = None
    _completed: dict[str, tuple[RunConfig, Source]] = field(default_factory=dict)
    _sources: dict[str, Source] = field(default_factory=dict)
    _sites: dict[str, list[Site]] = field(default_factory=dict)
    _built: dict[str, Exchange] = field(default_factory=dict)

    def resolve(self, config: RunConfig) -> tuple[RunConfig, Source]:
        """As `resolve`. Raises Unsupported where the norm cannot work with model and batch."""
        config, source = self.complete(config)
        self.check_supported(config, source, count_train(config, source))
        return config, source

    def complete(self, config: RunConfig) -> tuple[RunConfig, Source]:
        """As `resolve`, but without asking whether the norm can work."""
        # Runs that differ by their seeds alone have all else in common.
        key = repr(config.model_copy(update={"seed": 0}))
        if key not in self._completed:
            self._completed[key] = self._complete(config)
        completed, source = self._completed[key]
        return completed.model_copy(update={"seed": config.seed}), source

    def _complete(self, config: RunConfig) -> tuple[RunConfig, Source]:
        source = self.source(config)
        data = _checked(sources, config.data)
        if data.content not in (None, source.content):
            raise NormbenchError(
                f"data: the images under '{data.name}' are not those of this configuration"
            )
        config = config.model_copy(
            update={
                "task": _checked(tasks, config.task),
                "norm": _checked(norms, config.norm),
                "model": _checked(models, config.model),
                "optim": _checked(optimizers, config.optim),
                "data": data.model_copy(update={"content": source.content}),
                "runtime": runtime_as_it_runs(config, self.device),
            }
        )
        # Asked for again by its content, it is this one.
        self._sources.setdefault(_source_key(config), source)
        # Combinations of options are refused by what they belong to.
        schedule(config.optim.schedule, config.optim.warmup_fraction)
        optimizers.build(config.optim.name, options=config.optim.options)
        check_decay(config.optim.decay_norm, config.optim.options["weight_decay"])
        task = task_of(config, source)
        check_pixels(config, task)
        check_batch(config, task)
        # Before data are decoded for the runs. What other machines have, they say themselves.
        check_trackers(config.system.trackers, here=self.device is None)
        runs_dir = user_path("system.runs_dir", config.system.runs_dir)
        with disk_errors(runs_dir):
            if runs_dir.exists() and not runs_dir.is_dir():
                raise NormbenchError(f"system.runs_dir: '{runs_dir}' is not a folder")
        return config, source

    def check_supported(self, config: RunConfig, source: Source, num_train: int) -> None:
        """Raises Unsupported where the norm cannot work in a full batch or an epoch's last."""
        spec = norms.build(config.norm.name, options=config.norm.options)
        sites = self.norm_sites(config, source)
        processes = config.runtime.processes
        # Statistics run over the samples of one process, or of all processes together.
        parts = 1 if spec.is_synced else processes
        for batch_size in batch_sizes(num_train, config.batch_size * processes, parts):
            refusal = unsupported(spec, sites, batch_size)
            if refusal is not None:
                raise Unsupported(
                    f"norm {config.norm.name} cannot train {config.model.name} "
                    f"at batch {in_processes(batch_size, parts)}: {refusal.reason}"
                ) from refusal.error
        exchange = self._check_built(config, spec, source)
        least = min(batch_sizes(num_train, config.batch_size * processes, processes))
        if least < exchange.least_batch:
            raise Unsupported(f"model {config.model.name} at batch {least}: {too_few(exchange)}")

    def source(self, config: RunConfig) -> Source:
        """The data source, found by its content in the cache or from the files it is made of."""
        data, key = config.data, _source_key(config)
        if key not in self._sources:
            home = data_home(config)
            known = data.content and cached_source(data.content, home)
            self._sources[key] = known or sources.build(data.name, home, options=data.options)
        return self._sources[key]

    def norm_sites(self, config: RunConfig, source: Source) -> list[Site]:
        """The shape of the input of each norm of the model on these images."""
        model = config.model
        key = repr((config.task, model, source.classes, source.image_shape))
        if key not in self._sites:
            task = task_of(config, source)

            def build(layers: Layers) -> nn.Module:
                return models.build(model.name, layers, task.output_shape[0], options=model.options)

            with _about(f"model {model.name}"):
                self._sites[key] = norm_sites(build, task.image_shape, task.output_shape)
        return self._sites[key]

    def remarks(self, config: RunConfig, source: Source) -> tuple[str, ...]:
        """What else there is to know of the exchange of the model's norms; nothing for most."""
        spec = norms.build(config.norm.name, options=config.norm.options)
        return self._check_built(config, spec, source).remarks

    def _check_built(self, config: RunConfig, spec: NormSpec, source: Source) -> Exchange:
        """Builds the network under the norm; returns what the exchange of its norms did, if any.

        Raises NormbenchError for a network that cannot be built.
        """
        model = config.model
        has_appearance = config.train.appearance
        has_evaluations = config.train.bn_evaluations
        settings = (config.task, model, config.norm, has_appearance, has_evaluations)
        key = repr((settings, source.classes, source.image_shape))
        if key not in self._built:
            task = task_of(config, source)
            layers = Layers(spec, config.seed, task.image_shape, init_scale=model.init_scale)
            with _about(f"model {model.name} with norm {config.norm.name}"):
                with without_drawing(model.name, config.norm.name):
                    network = network_of(model, layers, task)
                if has_appearance:
                    check_appearance(network, task.image_shape)
                if has_evaluations:
                    check_evaluations(network, task.image_shape)
            self._built[key] = getattr(network, "normbench_exchange", Exchange(()))
        return self._built[key]


def _source_key(config: RunConfig) -> str:
    return repr((config.data.name, config.data.content, config.data.options, data_home(config)))


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Puts the subject before the message of an error, where it is not there yet."""
    try:
        yield
    except NormbenchError as error:
        if str(error).startswith(("model ", "norm ")):
            raise
        raise type(error)(f"{what}: {error}") from error.__cause__


def batch_sizes(num_train: int, together: int, parts: int) -> set[int]:
    """The numbers of images in the parts of a full batch of `together` and of an epoch's last."""
    sizes: set[int] = set()
    for images in (min(together, num_train), num_train % together):
        sizes |= {images // parts, math.ceil(images / parts)}
    return sizes - {0}


def count_train(config: RunConfig, source: Source) -> int:
    """The number of images to train on, but for rounding by class; NormbenchError for too few."""
    data = config.data
    for side in ("train", "test"):
        limit, available = getattr(data, f"limit_{side}"), getattr(source, f"num_{side}")
        if limit is not None and limit > available:
            raise NormbenchError(f"data.limit_{side}={limit}: there are {available} {side} images")
    num_train = data.limit_train or source.num_train
    num_val = round(num_train * data.val_fraction)
    if data.val_fraction > 0 and num_val == 0:
        raise NormbenchError(
            f"data.val_fraction={data.val_fraction} leaves {num_train} images to train "
            "and 0 to validate"
        )
    return num_train - num_val


def data_home(config: RunConfig) -> DataHome:
    """Where the configuration's `system` section keeps data on this machine."""
    system, given = config.system, config.system.cache_dir
    cache_dir = user_path("system.cache_dir", given) if given else default_cache_dir()
    return DataHome(cache_dir, system.mirrors, system.workers or os.cpu_count() or 1)


def _checked(registry: Registry[Any], choice: Choice) -> Any:
    """The choice with all its options checked and converted by the registry that owns them."""
    options = registry.check(choice.name, choice.options)
    for key, value in options.items():
        # YAML has lists, not tuples: the configuration reads back as it was written.
        if isinstance(value, tuple):
            options[key] = list(value)
    known = {name: getattr(choice, name) for name in type(choice).model_fields}
    return type(choice)(**known, **options)
