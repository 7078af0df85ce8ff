"""Plurals of what examples are called: images, sequences, series, volumes, examples."""


def plural(noun: str) -> str:
    """The plural of a noun.

    Example:
        >>> plural("image"), plural("series")
        ('images', 'series')
    """
    return noun if noun.endswith("s") else f"{noun}s"


def counted(count: int, one: str, many: str = "") -> str:
    """A count and its noun.

    Example:
        >>> counted(1, "block"), counted(0, "block"), counted(3, "class", "classes"), counted(3, "series")
        ('1 block', 'no blocks', '3 classes', '3 series')
    """
    noun = one if count == 1 else many or plural(one)
    return f"{count or 'no'} {noun}" if count < 1000 else f"{count:,} {noun}"
