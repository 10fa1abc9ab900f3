"""Scores of weights from anywhere, without DeepSpeed's engine: each rank holds the whole model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dpot_scale.checkpoints.source import require_agreement
from dpot_scale.checkpoints.weights import find, network_of, read_found, read_model
from dpot_scale.checkpoints.weights_file import Weights
from dpot_scale.config.data import DataConfig
from dpot_scale.config.load import load_run
from dpot_scale.config.model import Points
from dpot_scale.data.datasets import open_datasets, require_complete
from dpot_scale.data.grids import seen_on
from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.engine.runtime import World, announced_world_size, start_world
from dpot_scale.errors import ConfigError
from dpot_scale.evaluation.channels import by_channels, channels_for
from dpot_scale.evaluation.details import Details
from dpot_scale.evaluation.evaluator import DatasetEvaluation, evaluate
from dpot_scale.evaluation.inputs import HOW_SEEN, Request, Source
from dpot_scale.evaluation.published import protocol, published_data, require_published
from dpot_scale.evaluation.scores import DatasetDetails, Measured, Metric, Scores
from dpot_scale.evaluation.tally import FIRST_LEAD, ONE_STEP, ROLLOUT
from dpot_scale.models.families import count_parameters


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One model and how it did."""

    scores: Scores
    evaluations: Mapping[str, DatasetEvaluation]


def world_of_evaluation() -> World:
    """Return where this process stands: alone, or among the ranks that a launcher has started."""
    if announced_world_size() > 1:
        return start_world()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return World(rank=0, local_rank=0, world_size=1, device=device)


def evaluate_sources(
    sources: Sequence[Source], request: Request, world: World, progress: Callable[[str], None]
) -> dict[str, Evaluated]:
    """Score models, one after the other, on the same frames of the same datasets. Collective.

    All forecasts begin after the longest history that a model sees.

    Args:
        sources: The weights of the models.
        request: What is scored how.
        world: The ranks, which share the trajectories.
        progress: Takes one line of text for the user at a time.

    Raises:
        CheckpointError: weights cannot be used.
        ConfigError: the config describes another model, or a dataset does not suit it.
        DataError: a dataset is missing, or too short to forecast.
    """
    if len(sources) == 1:
        return {sources[0].name: _evaluate_source(sources[0], request, world, progress)}
    histories = {read_model(source.path).history for source in sources}
    known = max(histories)
    if len(histories) > 1:
        progress(f"all forecasts begin after {known} frames, the longest history of a model")
    request = replace(request, wanted=replace(request.wanted, known=known))
    found = {}
    for source in sources:
        try:
            found[source.name] = _evaluate_source(source, request, world, progress)
        except ConfigError as error:  # which does not say of which model it speaks
            raise ConfigError(f"{source.name}: {error}") from error
    return found


def _evaluate_source(
    source: Source, request: Request, world: World, progress: Callable[[str], None]
) -> Evaluated:
    config, place = request.config, find(source.path)
    weights = read_found(place)
    require_agreement(weights.model, config.model, request.agreed)
    published = request.wanted.scored_on == "published"
    data = _data_for(source, weights, request)
    if published:
        data = published_data(data)
    stores = open_datasets(data, weights.model, progress=progress, generate=request.generate)
    require_complete(stores, [request.split])
    network = network_of(weights).to(world.device)
    if published:
        require_published(stores, weights.model.history)
    evaluations: dict[str, DatasetEvaluation] = {}
    for name, store in stores.items():
        of_dataset = config.evaluation
        if published:
            of_dataset = protocol(name, of_dataset, request.most)
        names = store.info.channels
        places = channels_for(names, weights.model.channels, weights.data)
        if places != tuple(sorted(places)):
            said = [f"{field} as channel {1 + places[i]}" for i, field in enumerate(names)]
            progress(f"{source.name} takes the fields of {name} by name: {', '.join(said)}")
        evaluations |= evaluate(
            by_channels(network, places),
            {name: store},
            of_dataset,
            weights.model,
            data,
            world,
            request.split,
            request.wanted,
        )
    scores = Scores(
        weights=Path(source.registered) if source.registered else place,
        config=request.config_name,
        evaluation={name: evaluation.score for name, evaluation in evaluations.items()},
        parameters=count_parameters(weights.model).total,
        split=request.split,
        scored_on=request.wanted.scored_on,
        details={
            name: _details(
                evaluation.details,
                stores[name],
                seen_on(stores[name].info.grid, weights.model, data),
            )
            for name, evaluation in evaluations.items()
            if evaluation.details is not None
        },
    )
    return Evaluated(scores=scores, evaluations=evaluations)


def _data_for(source: Source, weights: Weights, request: Request) -> DataConfig:
    """Return which data a model is scored on, and how it sees them: as in its training."""
    known = _how_seen(source, weights)
    return request.config.data.model_copy(
        update={name: known[name] for name in request.own if known[name] is not None}
    )


def _how_seen(source: Source, weights: Weights) -> dict[str, str | None]:
    """Return the values of HOW_SEEN in the training of a model; None of what nobody knows."""
    if source.run_config is not None:
        own = load_run(str(source.run_config)).data
        return {name: getattr(own, name) for name in HOW_SEEN}
    if weights.data is None:
        return dict.fromkeys(HOW_SEEN)
    scaled = any(
        mean != 0 or std != 1
        for channels in weights.data.datasets.values()
        for mean, std, scored in zip(channels.mean, channels.std, channels.scored, strict=True)
        if scored
    )
    return {"normalize": "dataset" if scaled else "none", "shapes": weights.data.shapes}


def _details(details: Details, store: DatasetStore, seen: Points) -> DatasetDetails:
    """Return the numbers of an evaluation as values that are saved."""
    fields = {
        name: 1 + index
        for index, (name, scored) in enumerate(
            zip(store.info.channels, store.info.scored, strict=True)
        )
        if scored
    }

    def of(forecast: str) -> dict[str, Metric]:
        return {
            metric: Metric(
                **dict(_measured(details, metric, forecast, 0)),
                fields={
                    name: _measured(details, metric, forecast, group)
                    for name, group in fields.items()
                },
            )
            for metric in details.totals.metrics
        }

    return DatasetDetails(
        grid=details.points,
        seen_on=seen,
        trajectories=details.trajectories,
        constant_targets=details.totals.constant_targets,
        model=of("model"),
        persistence=of("persistence"),
    )


def _measured(details: Details, metric: str, forecast: str, group: int) -> Measured:
    values = details.totals.of(metric, forecast, group).tolist()
    quantities = details.totals.quantities
    after = FIRST_LEAD + quantities.leads
    return Measured(
        rollout=values[ROLLOUT],
        one_step=values[ONE_STEP],
        windows=dict(zip(quantities.windows, values[after:], strict=True)),
        lead_times=tuple(values[FIRST_LEAD:after]),
    )
