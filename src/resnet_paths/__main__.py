"""``python -m resnet_paths``."""

from .cli import main

if __name__ == "__main__":
    main()
