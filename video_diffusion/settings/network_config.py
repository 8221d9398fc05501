"""What a configuration of a network says, looked at before it is believed; takes no torch.

Anybody may have written it, and what the libraries say of a wrong value is neither one line nor names it.
"""

from collections.abc import Callable, Iterator, Mapping

from video_diffusion.settings.layers import shown

MAX_NUMBER = 2**31
COUNTS = ("num_", "size", "layers", "heads", "channels", "_dim", "groups")
"""Of a network's fields those that count or measure something, by a part of their names."""


def config_fault(config: Mapping[str, object], usual: Mapping[str, object], num_tensors: int) -> str | None:
    """Name a value of another type than the usual one, or more layers than there are tensors; None if none.

    A number of layers is believed only as far as tensors are there for them: a network of 10^8 layers would
    take hours to build, to be found without weights then.
    """
    for name, value in config.items():
        expected = usual.get(name)
        if name.startswith("_") or name not in usual or value is None:
            continue
        if isinstance(value, dict) and isinstance(expected, dict):
            if expected and (inside := config_fault(value, expected, num_tensors)):
                return f"{name}.{inside}"
            continue
        leaves, rule = _leaves(value), next(map(_kind_of, _leaves(expected)), None)
        for leaf in leaves:
            is_wild = isinstance(leaf, int | float) and not -MAX_NUMBER <= leaf <= MAX_NUMBER
            if is_wild or (rule is not None and leaf is not None and _kind_of(leaf) != rule):
                return (
                    f"{name} must be {rule or 'a number within reason'}, such as {shown(expected)}, "
                    f"but is {shown(value)}"
                )
            if not isinstance(leaf, int | float):
                continue
            if leaf < 0 and any(word in name for word in COUNTS):
                return f"{name} must be above 0, but is {shown(value)}"
            counts_layers = not isinstance(leaf, bool) and ("layers" in name or "blocks" in name)
            if counts_layers and leaf > num_tensors:
                return (
                    f"{name} is {shown(value)}, but the weights beside it are {num_tensors} tensors; they "
                    "belong to another model"
                )
        if len(leaves) > max(num_tensors, 8) and rule != "a text":
            return f"{name} holds {len(leaves)} values, more than there are tensors"
    return None


def blamed_field(
    make: Callable[[Mapping[str, object]], object], config: Mapping[str, object], usual: Mapping[str, object]
) -> str | None:
    """Name the field in whose place the usual value, or none, makes a network, or at least gets further."""
    said, blamed = _said(make, config), None
    for name, value, changed in _one_usual(config, usual):
        now = _said(make, changed)
        if now is None or (now != said and blamed is None):
            blamed = f"{name} is {shown(value)}, which makes no network"
        if now is None:
            break
    return blamed


def _said(make: Callable[[Mapping[str, object]], object], config: Mapping[str, object]) -> str | None:
    """What a library says against a configuration; None if it makes a network of it."""
    try:
        make(config)
    except Exception as error:  # of whatever kind a wrong value leads to
        return str(error)
    return None


def _one_usual(
    config: Mapping[str, object], usual: Mapping[str, object]
) -> Iterator[tuple[str, object, dict[str, object]]]:
    """Each field that is not as usual, and the configuration with the usual value there."""
    for name, value in config.items():
        expected = usual.get(name)
        if name.startswith("_") or (name in usual and value == expected):
            continue
        if name not in usual:
            yield name, value, {key: config[key] for key in config.keys() - {name}}
        elif isinstance(value, dict) and isinstance(expected, dict) and expected:
            for inner, own, changed in _one_usual(value, expected):
                yield f"{name}.{inner}", own, {**config, name: changed}
        else:
            yield name, value, {**config, name: expected}


def _kind_of(value: object) -> str | None:
    """What a value of a configuration must be if this is a usual one; None is anything."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a text" if isinstance(value, str) else None


def _leaves(value: object) -> list[object]:
    """What lists of lists hold in the end."""
    if not isinstance(value, list | tuple):
        return [value]
    return [leaf for entry in value for leaf in _leaves(entry)]
