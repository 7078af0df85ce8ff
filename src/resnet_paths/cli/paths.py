"""``resnet-paths paths``: which path lengths carry the gradient, and what each block adds to the logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from ..data import ImageData
from ..files import write_table
from ..network import UnrolledNetwork, for_inference
from ..paths import (
    EffectivePaths,
    GradientByLength,
    block_contributions,
    effective_paths,
    gradient_by_length,
    logit_lens,
    sample_path_gradients,
)
from ..plot import save
from ..plot.paths import (
    plot_block_contributions,
    plot_effective_paths,
    plot_gradient_by_length,
    plot_logit_lens,
)
from ._common import (
    DataOption,
    DeviceOption,
    JsonOption,
    MeanOption,
    ModelOption,
    OutOption,
    SizeOption,
    StdOption,
    console,
    model_and_data,
    unrolled,
    user_errors,
)
from ._tables import show, table

ImagesOption = Annotated[int, typer.Option("--images", help="Use the first images, this many.", min=1)]
SamplesOption = Annotated[int, typer.Option("--samples", help="Random paths for each length and image.", min=2)]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the random paths.")]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Examples:\n\n  resnet-paths paths\n\n"
        "  resnet-paths paths --model cifar-resnet56@weights.safetensors --data images.npz --samples 32"
    )
    @user_errors
    def paths(
        model: ModelOption = "embedded",
        data: DataOption = "digits",
        images: ImagesOption = 32,
        samples: SamplesOption = 8,
        seed: SeedOption = 0,
        size: SizeOption = None,
        mean: MeanOption = None,
        std: StdOption = None,
        device: DeviceOption = "cpu",
        out: OutOption = Path("results/paths"),
        as_json: JsonOption = False,
    ) -> None:
        """Split the gradient by path length, and find which lengths matter.

        With no options it runs on the embedded ResNet-56 (27 blocks, 134 million paths), offline.
        """
        screen = console(quiet=as_json)
        network, source = model_and_data(model, data, images, size, device, mean, std)
        net = unrolled(network, source)
        screen.print(f"{type(network).__name__}: {len(net)} blocks, 2^{len(net)} paths, {len(source)} images")
        x, target = _batch(net, source, device)
        fast = for_inference(net)
        split = gradient_by_length(fast, x, target)
        found = effective_paths(sample_path_gradients(fast, x, target, samples=samples, seed=seed))
        pictures = _pictures(fast, x, target, split, found, out)
        if as_json:
            typer.echo(json.dumps(_as_json(split, found, pictures), indent=2))
            return
        show(screen, _table(split, found))
        screen.print(
            f"{found.mass:.0%} of the gradient (number of paths times mean norm of one) is in the lengths "
            f"{found.low} to {found.high}, which {found.path_share:.2%} of all paths have; "
            f"mean length {found.mean_length:.1f}, of all paths {len(net) / 2:.1f}"
        )
        screen.print(f"Sum over lengths against the ordinary gradient: {split.residual:.1e} relative")
        screen.print("Written: " + ", ".join(map(str, pictures)))


def _batch(net: UnrolledNetwork, source: ImageData, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    parameter = next(net.model.parameters())
    return source.x.to(device, parameter.dtype), source.labels.to(device)


def _pictures(
    net: UnrolledNetwork,
    x: torch.Tensor,
    target: torch.Tensor,
    split: GradientByLength,
    found: EffectivePaths,
    out: Path,
) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "gradient_by_length.csv", split.to_pandas())
    write_table(out / "effective_paths.csv", found.to_pandas())
    return [
        save(plot_effective_paths(found)[0], out / "effective_paths.png"),
        save(plot_gradient_by_length(split), out / "gradient_by_length.png"),
        save(plot_block_contributions(block_contributions(net, x, target)), out / "block_contributions.png"),
        save(plot_logit_lens(logit_lens(net, x), target), out / "logit_lens.png"),
    ]


def _as_json(split: GradientByLength, found: EffectivePaths, pictures: list[Path]) -> dict[str, Any]:
    return {
        "blocks": found.n,
        "lengths": json.loads(found.to_pandas().to_json(orient="records")),
        "gradient_norm": split.norms.double().mean(1).tolist(),
        "gradient_share": split.share.double().mean(1).tolist(),
        "residual": split.residual,
        "effective": {
            "mass": found.mass,
            "low": found.low,
            "high": found.high,
            "path_share": found.path_share,
            "mean_length": found.mean_length,
            "decay": found.decay,
            "kind": found.kind,
        },
        "pictures": [str(picture) for picture in pictures],
        "model_fingerprint": found.source.model,
        "data_fingerprint": found.source.data,
        "seed": found.source.seed,
    }


def _table(split: GradientByLength, found: EffectivePaths) -> Table:
    columns = ["length", "paths", "norm of one path", "effective share", "norm of all together"]
    rows = table("Means over the images", right=columns)
    norms = split.norms.double().mean(1)
    for length, count in enumerate(found.counts):
        rows.add_row(
            str(length),
            f"{count:,}",
            f"{found.norm[length]:.2e}",
            f"{found.share[length]:.2%}",
            f"{float(norms[length]):.2e}",
            style="bold" if found.low <= length <= found.high else "",
        )
    return rows
