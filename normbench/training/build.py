"""From a resolved configuration to what trains: task, runtime, loader, model, optimizer."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from normbench.config.schema import RunConfig
from normbench.config.sections import ModelConfig
from normbench.data import Source, Split
from normbench.data.augment import FlipAndCrop
from normbench.data.loader import DeviceLoader
from normbench.environment import num_cores
from normbench.errors import NormbenchError
from normbench.models import Layers, materialize, models
from normbench.norms import norms
from normbench.tasks.registry import tasks
from normbench.tasks.task import Task
from normbench.training.engine import Trainer, count_steps
from normbench.training.optim import optimizers, parameter_groups, scaled_lr, schedule
from normbench.training.processes import ALONE, Processes
from normbench.training.runtime import Runtime, open_runtime

LEAST_LOGGED = 100  # steps of a run of short epochs


def runtime_of(config: RunConfig) -> AbstractContextManager[Runtime]:
    """The runtime to train this configuration in; several processes share the cores."""
    where = config.runtime
    assert isinstance(where.channels_last, bool), "resolved"
    device = torch.device(where.device)
    runtime = Runtime(
        device, where.precision, where.channels_last, where.compile, where.cuda_graphs
    )
    threads = config.system.threads
    if threads is None and where.processes > 1:
        threads = max(1, num_cores() // where.processes)
    return open_runtime(runtime, threads)


def task_of(config: RunConfig, source: Source) -> Task:
    """The task of this configuration on these data."""
    return tasks.build(config.task.name, source, options=config.task.options)


def check_pixels(config: RunConfig, task: Task) -> None:
    """Raises NormbenchError where images reach the network in another range than it makes."""
    if task.output_range is None:
        return
    low, high = task.output_range
    pixels = zip(config.data.mean, config.data.std, strict=True)
    if any((-mean / std, (1 - mean) / std) != (low, high) for mean, std in pixels):
        raise NormbenchError(
            f"data.mean, data.std: task {config.task.name} compares images with those that its "
            f"network makes, from {low:g} to {high:g}; allowed: "
            f"mean {-low / (high - low):g}, std {1 / (high - low):g}"
        )


def check_batch(config: RunConfig, task: Task) -> None:
    """Raises NormbenchError for batches of fewer images than the task needs."""
    if config.batch_size < task.least_batch:
        raise NormbenchError(
            f"batch_size={config.batch_size}: task {config.task.name} takes an image's style from "
            f"another of its batch; allowed: {task.least_batch} or more"
        )


def network_of(model: ModelConfig, layers: Layers, task: Task) -> nn.Module:
    """The network of a configuration, made of `layers`, for the outputs of the task.

    Raises NormbenchError for one that the task cannot train.
    """
    network = models.build(model.name, layers, task.output_shape[0], options=model.options)
    task.join(network)
    return network


def build_trainer(
    config: RunConfig, task: Task, split: Split, runtime: Runtime, processes: Processes = ALONE
) -> Trainer:
    """A model on the images of `split`, at the beginning of its training."""
    optim, train = config.optim, config.train
    spec = norms.build(config.norm.name, options=config.norm.options)
    model_config, image_shape = config.model, tuple(split["images"].shape[1:])
    layers = Layers(spec, config.seed, image_shape, init_scale=model_config.init_scale)
    model = network_of(model_config, layers, task)
    # Layout and device before the optimizer, which keeps references to the parameters.
    model = runtime.prepare(materialize(model, image_shape))
    augment = None
    if config.data.augment == "standard":
        augment = FlipAndCrop(len(split), config.seed, runtime.device)
    reference = optim.reference_batch_size
    lr = scaled_lr(optim.lr, optim.lr_scaling, config.images_per_step, reference)
    make_optimizer = optimizers.build(optim.name, options=optim.options)
    loader = build_loader(split, config, runtime, augment)
    images = len(loader), config.images_per_step
    steps_per_epoch = count_steps(*images, 1, None)
    num_steps = count_steps(*images, config.epochs, train.max_steps)
    return Trainer(
        task=task,
        model=model,
        optimizer=make_optimizer(parameter_groups(model, decay_norm=optim.decay_norm), lr),
        loader=loader,
        runtime=runtime,
        lr=lr,
        schedule=schedule(optim.schedule, optim.warmup_fraction),
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        accumulate=train.accumulate,
        max_steps=train.max_steps,
        log_every=logged_every(train.log_every, steps_per_epoch, num_steps),
        agc=optim.agc,
        processes=processes,
    )


def logged_every(asked: int, steps_per_epoch: int, num_steps: int) -> int:
    """The steps from one logged step of an epoch to the next.

    As asked; where no step of an epoch but its first would be logged, so many that a run has
    LEAST_LOGGED, or all that it has. Training itself depends on it in nothing.
    """
    if steps_per_epoch > asked:
        return asked
    return max(1, num_steps // LEAST_LOGGED)


def build_loader(
    split: Split, config: RunConfig, runtime: Runtime, augment: FlipAndCrop | None = None
) -> DeviceLoader:
    """The images of `split` on the device, normalized as the configuration says."""
    return DeviceLoader(
        split,
        mean=config.data.mean,
        std=config.data.std,
        device=runtime.device,
        channels_last=runtime.channels_last,
        augment=augment,
    )
