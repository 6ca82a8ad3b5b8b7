"""Seeded changes of bytes, of documents and of protobuf messages, in place of a fuzzing library."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

ODD = (None, "", "x", "\0", "é" * 40, -1, 0, 1, 2**31, 2**70, 0.5, -1e308, 1e308, float("inf"), float("nan"))
ODD_VALUES = (*ODD, True, False, [], [[]], [1], {}, {"a": 1}, b"bytes")
"""What a place of a document may hold that expects something else."""

_ODD_NUMBERS = (0, 1, -1, 2, 7, 127, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**62))
_ODD_FLOATS = (0.0, -1.0, 1e30, -1e30, float("inf"), float("nan"))
_ODD_TEXTS = ("", "x", "nowhere", "a/b", "../x", "^x", "x:0", "\0", "x" * 300)
_ODD_BYTES = (b"", b"\0", b"x", b"\xff" * 9)


def mutate_bytes(data: bytes, generator: Random) -> bytes:
    """The data with 1 to 4 changes: bytes flipped, overwritten, removed, doubled; or cut off."""
    result = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        if not result:
            break
        start = generator.randrange(len(result))
        size = min(generator.choice([1, 1, 1, 2, 4, 16, 64]), len(result) - start)
        kind = generator.randrange(6)
        if kind == 0:
            result[start] ^= 1 << generator.randrange(8)
        elif kind == 1:
            result[start : start + size] = generator.randbytes(size)
        elif kind == 2:
            result[start : start + size] = generator.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * size
        elif kind == 3:
            del result[start : start + size]
        elif kind == 4:
            result[start:start] = result[start : start + size]
        elif generator.random() < 0.3:
            del result[start:]
    return bytes(result)


def mutate_document(document: Any, generator: Random) -> Any:
    """A copy of nested dicts and lists with 1 to 3 changes: values replaced, exchanged, renamed, removed.

    Half of the changes keep the type of a value, so that they get past a check of types.
    """
    result = copy.deepcopy(document)
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        places = list(_places(result))
        if not places:
            break
        holder, key = generator.choice(places)
        value, kind = holder[key], generator.random()
        if kind < 0.1:
            del holder[key]
        elif kind < 0.4:
            alike = [other[name] for other, name in places if type(other[name]) is type(value)]
            holder[key] = copy.deepcopy(generator.choice(alike))
        elif kind < 0.5:
            other, name = generator.choice(places)
            holder[key] = copy.deepcopy(other[name])
        elif kind < 0.55 and isinstance(holder, dict):
            holder[generator.choice(["", "x", f"{key}x", 1, None])] = holder.pop(key)
        elif kind < 0.8 and type(value) in (int, float):
            holder[key] = value * generator.choice([-1, 0, 2, 1000, 1e-30, 1e30])
        elif kind < 0.8 and type(value) is bool:
            holder[key] = not value
        else:
            holder[key] = copy.deepcopy(generator.choice(ODD_VALUES))
    return result


def mutate_message(message: Message, generator: Random) -> None:
    """Change 1 to 3 fields of a protobuf message of any type, or of messages inside it, whatever they mean.

    Fields are cleared, filled with odd values, with those of other places of the same kind, and lists lose, repeat and
    exchange elements.
    """
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        inside = [each for each in _messages(message) if each.DESCRIPTOR.fields]
        # Large lists, such as those of nodes, would else take all changes.
        kind = generator.choice(sorted({each.DESCRIPTOR.full_name for each in inside}))
        target = generator.choice([each for each in inside if each.DESCRIPTOR.full_name == kind])
        _mutate_field(target, generator.choice(target.DESCRIPTOR.fields), inside, generator)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if _is_map(field):
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in sorted(value):
                    yield from _messages(value[key])
        elif _is_repeated(field):
            for each in value:
                yield from _messages(each)
        else:
            yield from _messages(value)


def _is_repeated(field: FieldDescriptor) -> bool:
    found = getattr(field, "is_repeated", None)  # older versions of protobuf have the label
    return bool(found) if found is not None else field.label == FieldDescriptor.LABEL_REPEATED


def _mutate_field(message: Message, field: FieldDescriptor, inside: list[Message], generator: Random) -> None:
    value = getattr(message, field.name)
    if _is_map(field):
        if len(value):
            key = generator.choice(sorted(value))
            kept = value[key]
            if isinstance(kept, Message):
                donors = [each for each in inside if each.DESCRIPTOR is kept.DESCRIPTOR]
                if donors and generator.random() < 0.5:
                    kept.CopyFrom(copy.deepcopy(generator.choice(donors)))
                    return
            del value[key]
    elif _is_repeated(field):
        _mutate_list(value, field, inside, generator)
    elif generator.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is not None:
        donated = _donated(field, inside, generator)
        if donated is None:
            value.SetInParent()
        else:
            value.CopyFrom(donated)
    else:
        setattr(message, field.name, _odd(message, field, inside, generator))


def _donated(field: FieldDescriptor, inside: list[Message], generator: Random) -> Message | None:
    """A copy of another message that the field may hold; None where there is none."""
    donors = [each for each in inside if each.DESCRIPTOR is field.message_type]
    return copy.deepcopy(generator.choice(donors)) if donors else None


def _mutate_list(value: Any, field: FieldDescriptor, inside: list[Message], generator: Random) -> None:
    kind = generator.randrange(5)
    if kind == 0 and len(value):
        del value[generator.randrange(len(value))]
    elif kind == 1 and len(value):
        value.append(copy.deepcopy(generator.choice(value)))
    elif kind == 2 and len(value) > 1:
        order = list(copy.deepcopy(list(value)))
        generator.shuffle(order)
        del value[:]
        value.extend(order)
    elif field.message_type is not None:
        donated = _donated(field, inside, generator)
        if donated is None:
            value.add()
        else:
            value.append(donated)
    else:
        odd = _odd(None, field, inside, generator)
        if len(value) and generator.random() < 0.8:
            value[generator.randrange(len(value))] = odd
        else:
            value.append(odd)


def _odd(message: Message | None, field: FieldDescriptor, inside: list[Message], generator: Random) -> Any:
    """A value of a field's type: an odd one, or one that another field has."""
    types = FieldDescriptor
    if field.enum_type is not None:
        if generator.random() < 0.2 and not field.enum_type.is_closed:
            return 99
        return generator.choice(field.enum_type.values).number
    if field.cpp_type == types.CPPTYPE_BOOL:
        return generator.random() < 0.5
    if field.cpp_type in (types.CPPTYPE_FLOAT, types.CPPTYPE_DOUBLE):
        return generator.choice(_ODD_FLOATS)
    if field.cpp_type == types.CPPTYPE_STRING:
        if field.type == types.TYPE_BYTES:
            present = getattr(message, field.name) if message is not None else b""
            return mutate_bytes(present, generator) if present else generator.choice(_ODD_BYTES)
        texts = sorted(
            {
                each
                for one in inside
                for kind, each in one.ListFields()
                if kind.type == types.TYPE_STRING and isinstance(each, str)
            }
        )
        return generator.choice(texts) if texts and generator.random() < 0.6 else generator.choice(_ODD_TEXTS)
    number = generator.choice(_ODD_NUMBERS)
    if field.cpp_type in (types.CPPTYPE_UINT32, types.CPPTYPE_UINT64):
        number = abs(number)
    wide = field.cpp_type in (types.CPPTYPE_INT64, types.CPPTYPE_UINT64)
    return number if wide else max(min(number, 2**31 - 1), -(2**31))
