"""The sizes of a report in tests: every stage, as fast as it goes."""

TINY = {
    "explorer": {"images": 20, "seconds": 0.001},
    "deletions": {"images": 20, "counts": 3, "draws": 2},
    "reordering": {"images": 20, "swaps": (1, 2), "draws": 2},
    "gradient": {"images": 2},
    "effective": {"images": 2, "draws": 2},
    "contributions": {"images": 4},
    "values": {"images": 10, "permutations": 4, "players": 3},
    "frontier": {"images": 20, "search_images": 20, "recalibrate_images": 20, "max_blocks": 2, "seconds": 0.01},
    "surface": {"images": 10, "steps": 3},
    "curvature": {"images": 8, "steps": 4},
}
