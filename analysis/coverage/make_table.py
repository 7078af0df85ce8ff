"""Writes docs/coverage.md: every family, the units found and the exact difference from the model.

python analysis/coverage/make_table.py
"""

import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from families import ALL, WITHOUT_UNITS, Family  # noqa: E402
from helpers import randomise_norms  # noqa: E402
from resnet_paths.network import NoUnitsError, unroll  # noqa: E402


def row(family: Family) -> str:
    model = randomise_norms(family.make())
    example = family.example(2) if family.needs_example else None
    times = []
    for _ in range(3):
        start = time.perf_counter()
        net = unroll(model, example)
        times.append(time.perf_counter() - start)
    x = family.example(3)
    with torch.no_grad():
        expected = model(x)
        expected = getattr(expected, "logits", expected)
        difference = float((net(x) - expected).abs().max())
    kinds = ", ".join(f"{sum(u.shortcut == kind for u in net)} {kind}" for kind in sorted({u.shortcut for u in net}))
    print(family.library, family.name, len(net), difference, flush=True)
    cells = (family.library, family.name, len(net), kinds, f"{difference:.1e}", net.front_end, f"{min(times):.2f}")
    return f"| {' | '.join(map(str, cells))} |"


def refused(family: Family) -> str:
    try:
        unroll(family.make())
    except NoUnitsError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:-1]]
        return f"| {family.library} | {family.name} | {'<br>'.join(reasons).replace('|', '/')} |"
    raise SystemExit(f"expected {family.name} to be refused")


def main() -> None:
    rows = [row(family) for family in ALL]
    exact = sum("| 0.0e+00 |" in line for line in rows)
    lines = [
        "# Coverage",
        "",
        "Made by `python analysis/coverage/make_table.py` with "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "transformers"))
        + ". Random weights, randomised norms, float64, batch 3 (recorded models: recorded at 2), small images. "
        "Difference: the largest over the outputs between `unroll(model)(x)` and `model(x)`. Time: the least of three "
        "runs.",
        "",
        f"{len(rows)} models unroll, {exact} of them bit for bit; {len(WITHOUT_UNITS)} without residual additions are "
        "refused, with the reason.",
        "",
        "| library | model | units | shortcuts | difference | front end | seconds to unroll |",
        "|---|---|---:|---|---:|---|---:|",
        *rows,
        "",
        "## Refused",
        "",
        "| library | model | why |",
        "|---|---|---|",
        *[refused(family) for family in WITHOUT_UNITS],
        "",
    ]
    (ROOT / "docs" / "coverage.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
