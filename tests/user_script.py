"""A user's script that touches every package: it passes ``mypy --strict`` as it stands, and a test runs it."""

from pathlib import Path

import pandas as pd
import torch
import xarray as xr

from resnet_paths import (
    callbacks,
    comparison,
    data,
    landscape,
    lesion,
    models,
    network,
    paths,
    plot,
    records,
    report,
    statistics,
    surgery,
    sweep,
    tradeoff,
    training,
)


def table_of(record: records.Record, folder: Path) -> pd.DataFrame:
    """Keep a result, and read it back as a table."""
    return records.Record.load(record.save(folder / "result.npz")).to_pandas()


def accuracy(point: dict[str, int], context: tuple[torch.nn.Module, data.ImageData], seed: int) -> float:
    model, images = context
    logits: torch.Tensor = surgery.drop_blocks(model, [point["block"]])(images.x)
    return float((logits.argmax(1) == images.labels).float().mean())


def main(folder: Path) -> list[str]:
    images = data.digits().subset(slice(0, 12))
    model = models.cifar_resnet(8, widths=(2, 2, 2), in_channels=1, num_classes=10, seed=0)
    recorder = callbacks.PathRecorder(model, images.x[:4], images.labels[:4], every=1, draws=2)
    rows = training.train(model, images, training.Recipe(epochs=1, batch_size=6), folder=folder / "run", progress=False)
    recorder.record(step=0)
    net: network.UnrolledNetwork = network.unroll(model.eval())

    split = paths.gradient_by_length(net, images.x, images.labels)
    lengths: torch.Tensor = split.lengths
    arrays: xr.Dataset = split.to_xarray()
    single = lesion.single_deletions(net, images, metric="loss", progress=False)
    weakest: list[int] = single.least(1)
    low, high = statistics.share_interval(0.5, len(images), 0.95)
    game = lesion.block_values(net, images, progress=False)
    names: tuple[str, ...] = tuple(game.names)

    both = comparison.compare({"one": net, "again": model}, images, draws=1, gradient_images=2, progress=False)

    direction = landscape.random_direction(model, seed=0)
    surface = landscape.loss_surface(model, images, directions=[direction], x=[-0.5, 0.0, 0.5], progress=False)
    figure = plot.save(plot.plot_surface_line(surface), folder / "surface.svg")
    smaller: torch.nn.Module = surgery.drop_blocks(model, weakest, example_input=images.x)
    plan: tradeoff.DropPlan = tradeoff.plan_drop(
        net,
        images,
        goal=tradeoff.Count(1),
        search=tradeoff.Greedy(max_blocks=1),
        repair=tradeoff.NoRepair(),
        clock=tradeoff.Clock(seconds=0.01),
        progress=False,
    )
    cells = sweep.sweep(accuracy, sweep.grid(block=[0, 1]), context=(model, images), progress=False)
    page = report.write_report(
        model,
        images,
        folder / "page.html",
        stages=[stage for stage in report.STAGES if stage.name == "lengths"],
        progress=False,
    )

    kept = [block.name for block in net if block.droppable]
    sizes = f"{tradeoff.count_parameters(smaller):,} of {tradeoff.count_parameters(model):,} parameters"
    told = [str(lengths.tolist()), str(arrays.sizes), str(cells.finished.all()), sizes, f"{low:.2f} to {high:.2f}"]
    return [
        *told,
        *kept,
        *names,
        str(figure),
        str(page.path),
        str(plan.chosen),
        str(rows[-1]),
        str(len(table_of(game, folder))),
        str(both.difference),
    ]
