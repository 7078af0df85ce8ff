"""Makes the gallery's pictures by running the code that its page shows: ``python docs/gallery/make.py``."""

import os
import re
from pathlib import Path

import torch
from PIL import Image

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run the blocks of the page in order, in this folder."""
    os.chdir(HERE)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in re.findall(
        r"^```python\n(.*?)^```$", (HERE / "index.md").read_text(), re.DOTALL | re.MULTILINE
    ):
        exec(compile(block, "index.md", "exec"), names)
    for picture in HERE.glob("*.png"):
        Image.open(picture).convert("RGB").quantize(256).save(picture, optimize=True)


if __name__ == "__main__":
    main()
