"""Consistent number formatting for the report's prose.

The sentences are composed from measured numbers, of any size and sometimes not finite; a stage that formatted them
itself would sooner or later write "0 %" for a small share, or "1 blocks".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(share: float) -> str:
    """A share as a percentage, with as many decimals as it needs.

    Example:
        >>> percent(0.0112), percent(0.5), percent(0.00031), percent(1e-9), percent(float("nan"))
        ('1.1 %', '50 %', '0.03 %', '1e-07 %', 'not a number')
        >>> percent(0.99998), percent(1.0)
        ('over 99.9 %', '100 %')
    """
    value = 100 * share
    if not math.isfinite(value):
        return "not a number"
    size = abs(value)
    if 99.95 <= size < 100:
        return f"over {99.9 if value > 0 else -99.9} %"
    if size >= 99.95 or size == 0 or (size >= 20 and round(value, 1) == round(value)):
        return f"{value:.0f} %"
    if size >= 0.95:
        return f"{value:.1f} %"
    return f"{value:.2f} %" if size >= 0.01 else f"{value:.1g} %"


def points(difference: float) -> str:
    """A difference of two shares, in percentage points with its sign.

    Example:
        >>> points(0.0425), points(-0.001), points(0.0)
        ('+4.2 points', '-0.10 points', '0 points')
    """
    value = 100 * difference
    if value == 0:
        return "0 points"
    return f"{value:+.1f} points" if abs(value) >= 0.95 else f"{value:+.2f} points"


def number(value: float, digits: int = 3) -> str:
    """A number with the given number of digits, without an exponent if it is readable without one.

    Example:
        >>> number(0.151234), number(12345.6), number(1.2e-9), number(float("inf")), number(2.0)
        ('0.151', '12,346', '1.2e-09', 'inf', '2')
    """
    if not math.isfinite(value):
        return str(value)
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}"


def signed(difference: float, digits: int = 3) -> str:
    """A difference of two numbers, with its sign.

    Example:
        >>> signed(0.151234), signed(-12345.6), signed(0.0), signed(float("nan"))
        ('+0.151', '-12,346', '0', 'nan')
    """
    return f"+{number(difference, digits)}" if difference > 0 else number(difference, digits)


def power(base: int, exponent: int) -> str:
    """A power of ten in the usual notation.

    Example:
        >>> power(2, 27)
        '2²⁷'
    """
    return f"{base}" + str(exponent).translate(_RAISED)


def block_name(name: object, *, begins: bool = False) -> str:
    """What prose calls a block: in a plain sequence of modules, names are numbers.

    Args:
        name: the block's name.
        begins: whether it begins a sentence.

    Example:
        >>> block_name("layer1.0", begins=True), block_name("3"), block_name("3", begins=True)
        ('layer1.0', 'block 3', 'Block 3')
    """
    return f"{'Block' if begins else 'block'} {name}" if str(name).isdecimal() else str(name)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in a sentence; only the first few if there are many.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"]), listed(list("abcdefgh"), most=3)
        ('a', 'a, b and c', 'a, b, c and 5 more')
    """
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"


def seconds(value: float) -> str:
    """A short duration.

    Example:
        >>> seconds(0.00123), seconds(1.25)
        ('1.23 ms', '1.25 s')
    """
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
