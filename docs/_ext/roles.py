"""Docstrings as mkdocstrings reads them: roles become links that it checks, one ``Example:`` is ``Examples:``."""

import re
from collections.abc import Iterator
from typing import Any

import griffe

_ROLE = re.compile(r":(func|class|meth|attr|mod):`(~?)([\w.]+)`")
_LINKED = ("func", "class")


class Roles(griffe.Extension):
    """Each role becomes a link to what its name means where it stands; a wrong name fails the strict build."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite the docstrings of everything in the package."""
        for place in _everything(pkg):
            if place.docstring is not None:
                text = _ROLE.sub(
                    lambda found, p=place: _link(p, *found.groups()), place.docstring.value
                )
                place.docstring.value = re.sub(
                    r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE
                )


def _everything(place: griffe.Object) -> Iterator[griffe.Object]:
    yield place
    for member in place.members.values():
        if not member.is_alias:
            yield from _everything(member)


def _link(place: griffe.Object, role: str, short: str, name: str) -> str:
    shown = name.rsplit(".", 1)[-1] if short else name
    if role not in _LINKED:  # fields and methods stand on their class's page, modules have none
        return f"`{shown}`"
    return f"[`{shown}`][{_target(place, name)}]"


def _target(place: griffe.Object, name: str) -> str:
    """The full path of a name: in its module, the packages around that, any other package, or as it is written."""
    around: griffe.Object | None = place
    while around is not None:
        found = _member(around, name)
        if found is not None:
            return _function_of_same_name(found, place)
        around = around.parent
    for package in place.package.members.values():  # the public name of another package
        found = _member(package, name) if not package.is_alias else None
        if found is not None:
            return _function_of_same_name(found, place)
    return _function_of_same_name(name, place)


def _member(place: griffe.Object, name: str) -> str | None:
    first, _, rest = name.partition(".")
    if not place.is_module or first not in place.members:
        return None
    member = place.members[first]
    path = member.target_path if member.is_alias else member.path
    return f"{path}.{rest}" if rest else path


def _function_of_same_name(path: str, place: griffe.Object) -> str:
    """``resnet_paths.unroll`` is a package and the function in it, and so on: links mean the function."""
    parts = path.split(".")
    found: griffe.Object | griffe.Alias = place.package
    for part in parts[1:]:
        if part not in found.members or found.is_alias:
            return path
        found = found.members[part]
    same = not found.is_alias and found.is_module and parts[-1] in found.members
    return f"{path}.{parts[-1]}" if same else path
