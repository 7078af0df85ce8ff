"""The page that photos.py writes."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import binomtest

from resnet_paths import __version__

BLOCKS = {"lite0": 9, "lite2": 14}
"""Droppable blocks, counted by hand: stages that repeat a block keep its shape."""
PUBLISHED = {"lite0": 75.1, "lite2": 77.6}
"""Top-1 accuracy on ImageNet's validation set, in percent."""


def _interval_of(right: int, count: int) -> str:
    exact = binomtest(right, count).proportion_ci(method="exact")
    return f"{100 * exact.low:.0f} to {100 * exact.high:.0f} %"


def _each(entry: dict) -> str:
    """The divergence of each repair that was tried."""
    return ", ".join(f"{value:.3g}" for value in entry["divergences"].values())


def claims(facts: dict) -> list[str]:
    """Rows of expected, measured, verdict."""
    lines = ["| claim | expected | measured | verdict |", "|---|---|---|---|"]

    def add(claim: str, expected: str, measured: str, holds: bool | None) -> None:
        verdict = "" if holds is None else "holds" if holds else "does not hold"
        lines.append(f"| {claim} | {expected} | {measured} | {verdict} |")

    for kind, part in facts.items():
        if kind not in BLOCKS:
            continue
        name, played, rows = kind.capitalize(), part["game"], part["repairs"]["rows"]
        full, some = rows[0]["shipped"], rows[1:]
        add(f"{name}: droppable blocks", str(BLOCKS[kind]), str(played["blocks"]), played["blocks"] == BLOCKS[kind])
        exact = binomtest(full["right"], full["photos"]).proportion_ci(method="exact")
        add(
            f"{name}: accuracy on the labelled photos",
            f"published on ImageNet: {PUBLISHED[kind]} %",
            f"{full['right']} of {full['photos']} ({_interval_of(full['right'], full['photos'])}, exact, 95 %)",
            exact.low <= PUBLISHED[kind] / 100 <= exact.high,
        )
        add(
            f"{name}: sets measured (all)",
            f"2^{BLOCKS[kind]} = {2 ** BLOCKS[kind]:,}",
            f"{played['sets']:,} on {played['photos']} photos, in {played['seconds']:.0f} s",
            played["sets"] == 2 ** BLOCKS[kind],
        )
        add(
            f"{name}: Shapley values sum to all minus none",
            "up to rounding (1e-9)",
            f"{played['residual']:.1g}",
            played["residual"] < 1e-9,
        )
        if played["library"] is not None:
            add(
                f"{name}: block_values gives the same Shapley values",
                "within 1e-4",
                f"{played['library']:.1g}",
                played["library"] < 1e-4,
            )
        worst = max(
            b["divergence"] / max(a["divergence"], 1e-9)
            for a, b in zip(played["best"][1:], played["greedy"][1:], strict=True)
        )
        same = sum(a["dropped"] == b["dropped"] for a, b in zip(played["best"], played["greedy"], strict=True)) - 1
        add(
            f"{name}: greedy sets against the best of their size, without repair",
            "(none)",
            f"best at {same} of {played['players']} sizes; at worst {worst:.2f} times the divergence",
            None,
        )
        steps = [f"{row['step']:g}" for row in some if row["repair"] == "refitted"]
        least = [row["divergences"][row["repair"]] <= min(row["divergences"].values()) for row in some]
        add(
            f"{name}: the repair is chosen among plain, recalibrated, refitted",
            "by the lowest divergence on held-out photos",
            f"refitted {len(steps)} of {len(some)} times, steps {', '.join(steps)}",
            all(least),
        )
        for against in ("plain", "recalibrated"):
            less = [row["shipped"]["crops_divergence"] <= row[against]["crops_divergence"] + 1e-6 for row in some]
            add(
                f"{name}: on the labelled photos, evaluated once, no further from the full network than {against}",
                "at every size tried",
                f"at {sum(less)} of {len(less)}",
                all(less),
            )
        calibrations = part["repairs"]["calibrations"]
        sixteen = [one for one in calibrations if one["each"] == 16]
        by = {(one["dropped"], one["photos_apart"]): one["crops_divergence"] for one in sixteen}
        sizes = sorted({size for size, _ in by})
        if sizes:
            ratios = [by[size, False] / by[size, True] for size in sizes]
            add(
                f"{name}: refitted to 16 crops of each photo: divergence on the labelled photos' crops if crops of "
                "one photo are on both sides of the split, over that with photos held out",
                "above 1: the chosen step is too long",
                ", ".join(f"{ratio:.2f} ({size} dropped)" for ratio, size in zip(ratios, sizes, strict=True)),
                min(ratios) > 1,
            )
    return lines


def table(part: dict) -> list[str]:
    """Drop and repair, set by set."""
    lines = [
        "| dropped | blocks | MACs (M) | repair, step | divergence on held-out photos: plain, recalibrated, refitted | "
        "same answer, 20 photos: plain, recalibrated, shipped | correct out of 20: plain, shipped (exact 95 %) | same "
        "answer, crops (%): plain, recalibrated, shipped (95 %) | divergence, crops: plain, recalibrated, shipped (95 "
        "%) |",
        "|---:|---|---:|---|---|---|---|---|---|",
    ]
    for row in part["repairs"]["rows"]:
        plain, recalibrated, shipped = row["plain"], row["recalibrated"], row["shipped"]
        low, high = shipped["crops_agree_interval"]
        down, up = shipped["crops_divergence_interval"]
        lines.append(
            f"| {len(row['dropped'])} | {' '.join(map(str, row['dropped']))} | {row['macs'] / 1e6:.0f} | "
            f"{row['repair']}, {row['step']:g} | {_each(row)} | "
            f"{plain['agree']}, {recalibrated['agree']}, {shipped['agree']} | {plain['right']}, {shipped['right']} "
            f"({_interval_of(shipped['right'], shipped['photos'])}) | {100 * plain['crops_agree']:.1f}, "
            f"{100 * recalibrated['crops_agree']:.1f}, {100 * shipped['crops_agree']:.1f} ({100 * low:.0f} to "
            f"{100 * high:.0f}) | {plain['crops_divergence']:.3g}, {recalibrated['crops_divergence']:.3g}, "
            f"{shipped['crops_divergence']:.3g}{f' ({max(down, 0):.2g} to {up:.2g})' if row['dropped'] else ''} |"
        )
    return lines


def game_lines(part: dict) -> list[str]:
    """The values of the blocks, and the best set of each size."""
    played = part["game"]
    low, high = played["divergence_intervals"]
    lines = [
        f"Divergence 0 with all blocks; with none of the {played['players']}, a divergence of {played['none'][0]:.2f} "
        f"and {100 * played['none'][1]:.0f} % of answers kept. Largest number of blocks that can be dropped without "
        f"repair, in the best set: {played['within'][0]} with 95 % of answers kept, {played['within'][1]} with 90 %, "
        f"{played['within'][2]} with 80 %.",
        "",
        "| | block | lowers the divergence by (Shapley, 95 % over photos) | keeps answers (Shapley, points) | "
        "divergence without it alone |",
        "|---:|---|---:|---:|---:|",
    ]
    for number, name in enumerate(played["names"]):
        lines.append(
            f"| {number} | `{name}` | {-played['divergence_values'][number]:.3f} ({-high[number]:.3f} to "
            f"{-low[number]:.3f}) | {100 * played['agreement_values'][number]:.1f} | {played['single'][number]:.3f} |"
        )
    lines += [
        "",
        "| dropped | best of all sets | divergence, same answers (%) | greedy | divergence, same answers (%) |",
    ]
    lines += ["|---:|---|---:|---|---:|"]
    for best, grown in zip(played["best"], played["greedy"], strict=True):
        cells = [
            f"{' '.join(map(str, one['dropped']))} | {one['divergence']:.3f}, {100 * one['agreement']:.0f}"
            for one in (best, grown)
        ]
        lines.append(f"| {len(best['dropped'])} | {cells[0]} | {cells[1]} |")
    return lines


def against(facts: dict) -> list[str]:
    """Lite2 without k blocks against Lite0: answers."""
    part = facts["lite2"]["repairs"]
    rows = [(f"Lite2 without {len(row['dropped'])}", row["shipped"], row["macs"]) for row in part["rows"]]
    rows.append(("Lite0", part["other"], facts["lite0"]["repairs"]["rows"][0]["macs"]))
    lines = [
        "| | same answer as Lite2, 20 photos | same, crops (%, 95 %) | divergence from Lite2, crops | correct out "
        "of 20 (exact 95 %) | MACs (M) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, seen, macs in rows:
        low, high = seen["crops_agree_interval"]
        lines.append(
            f"| {name} | {seen['agree']} | {100 * seen['crops_agree']:.1f} ({100 * low:.0f} to {100 * high:.0f}) | "
            f"{seen['crops_divergence']:.3g} | {seen['right']} ({_interval_of(seen['right'], seen['photos'])}) | "
            f"{macs / 1e6:.0f} |"
        )
    return [*lines, "", verdict(facts)]


def verdict(facts: dict) -> str:
    """Which of the two is closer to Lite2 at the same cost, in one sentence."""
    part = facts["lite2"]["repairs"]
    other, macs = part["other"], facts["lite0"]["repairs"]["rows"][0]["macs"]
    nearer = [row for row in part["rows"] if row["shipped"]["crops_agree"] >= other["crops_agree"]]
    most = len(nearer[-1]["dropped"])
    begins = f"Up to {most} blocks can be dropped before Lite2 agrees less"
    if nearer[-1] is part["rows"][-1]:
        begins = f"With {most} blocks dropped, the most tried, Lite2 still agrees more"
    return (
        f"{begins} with the full Lite2 than Lite0 does ({100 * other['crops_agree']:.1f} % of crops). It has "
        f"{nearer[-1]['macs'] / 1e6:.0f} million multiply-adds, Lite0 {macs / 1e6:.0f}."
    )


def timing(facts: dict) -> list[str]:
    """Milliseconds per image, and how many blocks Lite2 must drop to be as fast as Lite0."""
    if "times" not in facts:
        return []
    times, said = facts["times"]["runtimes"], {"eager": "PyTorch", "onnx": "ONNX Runtime"}
    lines = [
        "",
        "Batch size 1, one thread, all in turn, on the shared CPU of another machine. Shares of Lite2's time in the "
        "same round (median, 95 % over nine rounds) are more reliable than milliseconds. Repairs do not change the "
        "latency.",
        "",
        f"| | {' | '.join(f'ms, {said[one]} | share of Lite2' for one in times)} |",
        f"|---|{'---:|---:|' * len(times)}",
    ]
    for rows in zip(*times.values(), strict=True):
        gone = rows[0]["dropped"]
        name = "Lite0" if gone is None else f"Lite2 without {len(gone)}"
        cells = (
            f"{one['ms']:.1f} | {one['share']:.2f} ({one['interval'][0]:.2f} to {one['interval'][1]:.2f})"
            for one in rows
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    agreed = {tuple(row["dropped"]): row["shipped"]["crops_agree"] for row in facts["lite2"]["repairs"]["rows"]}
    other = facts["lite2"]["repairs"]["other"]["crops_agree"]
    for runtime, rows in times.items():
        fast = [one for one in rows[:-1] if one["share"] <= rows[-1]["share"]]
        one = fast[0] if fast else rows[-2]
        speed = "as fast as Lite0" if fast else "still slower than Lite0"
        kept = agreed.get(tuple(one["dropped"]))
        agrees = "" if kept is None else (
            f"; repaired, it then gives the full Lite2's answer on {100 * kept:.0f} % of crops, Lite0 on "
            f"{100 * other:.0f} %: at this speed {'Lite2' if kept > other else 'Lite0'} agrees more"
        )  # fmt: skip
        lines += ["", f"In {said[runtime]} Lite2 is {speed} without {len(one['dropped'])} blocks{agrees}."]
    return lines


def searched(part: dict) -> str:
    """How the sets were found and repaired."""
    found = (
        f"({part['searched']} sets, {part['search_seconds']:.0f} s) by the remaining divergence, plain or refitted "
        f"with the best step, on {part['apart']} crops of held-out photos"
    )
    if part["search"] == "plain":
        found = (
            "by the divergence after dropping, without repair, on the centre crops of the unlabelled photos (a "
            "search with refit took too long on this machine; `--repairs lite2 --plain-search --crops 3 --test-crops 4 "
            "--no-calibrations`)"
        )
    seen, sizes = part["rows"][0]["shipped"], [len(row["dropped"]) for row in part["rows"]]
    if part["search"] == "plain":
        found += f"; sizes evaluated: {', '.join(map(str, sizes))}; larger ones were not, for lack of time"
    return (
        f"{part['machine']}. Sets found greedily {found}. Repairs: fitted to {part['fitted']} crops, chosen on "
        f"{part['apart']} crops of other photos. Evaluated on the centre crops of the {seen['photos']} labelled "
        f"photos, and on {seen['crops'] // seen['photos']} crops of each. No labels, no training."
    )


def calibrations(part: dict) -> list[str]:
    """How the repair depends on the images."""
    if not part["calibrations"]:
        return []
    return [
        "",
        "Other calibration images, for the sets above of 1, 3 and 5 blocks. *Held out* says whether photos were "
        "held out, or only crops. In the latter case, crops of one photo are on both sides, and the step is chosen "
        "on images that the fit knows.",
        "",
        "| dropped | crops per photo | held out | repair, step | divergence used for the choice: plain, "
        "recalibrated, refitted | divergence on the labelled photos' crops | same answer there (%) |",
        "|---:|---:|---|---|---|---:|---:|",
        *(
            f"| {one['dropped']} | {one['each']} | {'photos' if one['photos_apart'] else 'crops'} | {one['repair']}, "
            f"{one['step']:g} | {_each(one)} | {one['crops_divergence']:.3g} | {100 * one['crops_agree']:.1f} |"
            for one in part["calibrations"]
        ),
    ]


def page(facts: dict) -> str:
    """The page in Markdown."""
    ran = facts["ran"]
    lines = [
        "# EfficientNet-Lite on real photos: exact games, refit, and Lite2 without k blocks against Lite0",
        "",
        f"`{ran['command']}`; resnet_paths {__version__}, torch {ran['torch']}, {ran['machine']}. 20 labelled ImageNet "
        f"photos (foolbox), {facts['lite2']['repairs']['photos']} without labels (31 of ImageNet's validation set from "
        "shapiq, the rest from scikit-image and scikit-learn). **Twenty photos are few**: 18 correct out of 20 is "
        "compatible with 68 to 99 %, so accuracies here only separate a broken network from a working one. "
        "Agreement with the full network needs no labels, and crops of each of the 20 photos say more. Crops of "
        "one photo are correlated, so their intervals are over the 20 photos. No calibration used these 20.",
        "",
        *claims(facts),
    ]
    for kind in BLOCKS:
        part = facts[kind]["repairs"]
        lines += ["", f"## {kind.capitalize()}: the block game, all sets, no repair", "", *game_lines(facts[kind])]
        lines += [
            "",
            f"## {kind.capitalize()}: dropped and repaired",
            "",
            searched(part),
            "",
            *table(facts[kind]),
            *calibrations(part),
        ]
    lines += ["", "## Lite2 without k blocks against Lite0", ""]
    lines += [
        "Both see the same photos and crops, Lite2 at 260 pixels, Lite0 at 224. *Shipped* is the network as repaired "
        "above.",
        "",
    ]
    lines += [*against(facts), *timing(facts), "", "![agreement and divergence](photos.png)", ""]
    return "\n".join(lines)


def picture(facts: dict) -> Figure:
    """Agreement and divergence on the labelled photos' crops."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    panels = figure.subplots(2, 2)
    for column, kind in zip(panels.T, BLOCKS, strict=True):
        part = facts[kind]["repairs"]
        counts = [len(row["dropped"]) for row in part["rows"]]
        for name, marker in (("shipped", "o"), ("recalibrated", "s"), ("plain", "^")):
            for axes, value, scale in zip(column, ("crops_agree", "crops_divergence"), (100, 1), strict=True):
                axes.plot(counts, [scale * row[name][value] for row in part["rows"]], marker=marker, label=name)
        if part["other"]:
            for axes, value, scale in zip(column, ("crops_agree", "crops_divergence"), (100, 1), strict=True):
                axes.axhline(scale * part["other"][value], color="grey", linestyle="--", label="Lite0")
        column[0].set(title=f"EfficientNet-{kind.capitalize()}", ylabel="same answer (% of crops)")
        column[1].set(ylabel="divergence (nats)")
        column[1].set_yscale("symlog", linthresh=0.01)
        column[1].set_ylim(0, 2 * column[1].dataLim.y1)
        column[0].legend()
        for axes in column:
            axes.set_xlabel("blocks dropped")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
