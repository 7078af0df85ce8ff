"""Plurals of what examples are called: images, sequences, series, volumes, examples."""


def plural(noun: str) -> str:
    """The plural of a noun.

    Example:
        >>> plural("image"), plural("series")
        ('images', 'series')
    """
    return noun if noun.endswith("s") else f"{noun}s"
