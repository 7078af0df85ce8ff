"""``resnet-paths paths``: which path lengths carry the gradient, and what each block adds to the logits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

import resnet_paths as rp

from ..files import write_table
from ..nouns import counted
from ..tables import json_rows, json_text
from ..text_tables import show, table
from ._app import command
from ._inputs import console, model_and_data, unrolled
from .options import Json, Limit, Out, Seed, Subject

if TYPE_CHECKING:
    import torch


@command(
    "resnet-paths paths",
    "resnet-paths paths --model cifar-resnet56@weights.safetensors --data images.npz --draws 32",
)
def paths(
    subject: Subject,
    limit: Limit = 32,
    draws: Annotated[int, typer.Option(help="Number of random paths per length and image.", min=2)] = 8,
    seed: Seed = 0,
    out: Out = Path("results/paths"),
    as_json: Json = False,
) -> None:
    """Split the gradient by path length, and find which lengths matter.

    With no options it runs on the embedded ResNet-56 (27 blocks, 134 million paths), offline.
    """
    screen = console(quiet=as_json)
    network, data = model_and_data(subject, limit)
    net = unrolled(network, data)
    blocks, images = counted(len(net), "block"), counted(len(data), "image")
    screen.print(f"{type(network).__name__}: {blocks}, 2^{len(net)} paths, {images}")
    parameter = next(network.parameters())
    x, target = data.x.to(subject.device, parameter.dtype), data.labels.to(subject.device)
    fast = rp.for_inference(net)
    split = rp.gradient_by_length(fast, x, target)
    effective = rp.effective_paths(rp.sample_path_gradients(fast, x, target, draws=draws, seed=seed))
    pictures = _pictures(fast, x, target, split, effective, out)
    if as_json:
        typer.echo(json_text(_as_json(split, effective, pictures)))
        return
    show(screen, _table(split, effective))
    screen.print(
        f"{effective.mass:.0%} of the gradient (number of paths times mean norm of one) is in the lengths "
        f"{effective.low} to {effective.high}, which {effective.path_share:.2%} of all paths have; "
        f"mean length {effective.mean_length:.1f}, of all paths {len(net) / 2:.1f}"
    )
    screen.print(f"Relative difference between the sum over lengths and the ordinary gradient: {split.residual:.1e}")
    screen.print("Written: " + ", ".join(map(str, pictures)))


def _pictures(
    net: rp.UnrolledNetwork,
    x: torch.Tensor,
    target: torch.Tensor,
    split: rp.paths.GradientByLength,
    effective: rp.paths.EffectivePaths,
    out: Path,
) -> list[Path]:
    write_table(out / "gradient_by_length.csv", split.to_pandas())
    write_table(out / "effective_paths.csv", effective.to_pandas())
    contributions, lens = rp.block_contributions(net, x, target), rp.paths.logit_lens(net, x)
    pictures = {
        "effective_paths": rp.plot.plot_effective_paths(effective)[0],
        "gradient_by_length": rp.plot.plot_gradient_by_length(split),
        "gradient_share": rp.plot.plot_gradient_share(split),
        "block_contributions": rp.plot.plot_block_contributions(contributions),
        "logit_lens": rp.plot.plot_logit_lens(lens, target),
    }
    return [rp.plot.save(axes, out / f"{name}.png") for name, axes in pictures.items()]


def _as_json(
    split: rp.paths.GradientByLength, effective: rp.paths.EffectivePaths, pictures: list[Path]
) -> dict[str, Any]:
    facts = ("mass", "low", "high", "path_share", "mean_length", "decay", "kind")
    return {
        "blocks": effective.n,
        "lengths": json_rows(effective.to_pandas()),
        "gradient_norm": split.norms.double().mean(1).tolist(),
        "gradient_share": split.share.double().mean(1).tolist(),
        "residual": split.residual,
        "effective": {name: getattr(effective, name) for name in facts},
        "pictures": [str(picture) for picture in pictures],
        "model_fingerprint": effective.source.model,
        "data_fingerprint": effective.source.data,
        "seed": effective.source.seed,
    }


def _table(split: rp.paths.GradientByLength, effective: rp.paths.EffectivePaths) -> Table:
    columns = ["length", "paths", "norm of one path", "effective share", "norm of the sum"]
    rows = table("Mean over the images", right=columns)
    norms = split.norms.double().mean(1)
    for length, count in enumerate(effective.counts):
        rows.add_row(
            str(length),
            f"{count:,}",
            f"{effective.norm[length]:.2e}",
            f"{effective.share[length]:.2%}",
            f"{float(norms[length]):.2e}",
            style="bold" if effective.low <= length <= effective.high else "",
        )
    return rows
