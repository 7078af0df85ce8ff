"""Names of report stages and of papers' claims, for help and completion without importing either."""

STAGES = {
    "explorer": "Take the network apart",
    "checks": "Model and data",
    "blocks": "The model as unrolled blocks",
    "lesion": "Deleting one block",
    "deletions": "Deleting several blocks",
    "reordering": "Reordering blocks",
    "lengths": "How long the paths are",
    "gradient": "Gradient by path length",
    "effective": "Effective paths",
    "contributions": "Contributions to the prediction",
    "values": "Value of each block, and interactions",
    "frontier": "Accuracy against latency",
    "curvature": "Curvature",
    "surface": "Loss surface",
}
"""The section title of each stage."""

PAPERS = {
    "veit2016": "Veit, Wilber and Belongie (2016), Residual Networks Behave Like Ensembles of "
    "Relatively Shallow Networks",
    "li2018": "Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets",
    "he2015": "He, Zhang, Ren and Sun (2015), Deep Residual Learning for Image Recognition",
    "he2016": "He, Zhang, Ren and Sun (2016), Identity Mappings in Deep Residual Networks",
}
"""The citation of each paper."""

CLAIMS = {
    "veit2016": (
        "path-count",
        "path-lengths",
        "halving",
        "single-deletion",
        "plain-deletion",
        "downsampling",
        "smooth-deletion",
        "smooth-reordering",
        "decay",
        "short-paths",
        "few-paths",
    ),
    "li2018": ("filter-normalisation", "smoother", "low-dimension"),
    "he2015": ("parameters", "degradation", "residual", "responses"),
    "he2016": ("additive", "preactivation"),
}
"""The claims of each paper."""
