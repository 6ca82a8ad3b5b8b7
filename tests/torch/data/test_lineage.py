"""Tests of what is computed from what a model returned."""

from __future__ import annotations

import torch

from inc_autotune.torch_ext.data.lineage import Lineage

X = torch.arange(6.0)


def test_what_is_computed_from_a_followed_tensor_is_followed() -> None:
    with Lineage() as lineage:
        output = X.clone()
        lineage.add({"output": output, "text": "a"})
        words = torch.cat([torch.zeros(1, dtype=torch.long), output.argmax()[None]])
        assert lineage.holds((words[-1:], None))
        assert not lineage.holds((X, X * 2))


def test_pauses_and_numbers_of_python_end_it() -> None:
    with Lineage() as lineage:
        output = X.clone()
        lineage.add(output)
        assert not lineage.holds(torch.tensor([output.sum().item()]))
        lineage.pause()
        inside = output + 1
        lineage.resume()
        assert not lineage.holds(inside)
        assert lineage.holds(output + 1)


def test_a_buffer_is_followed_from_a_write_into_a_part_to_one_over_all_of_it() -> None:
    with Lineage() as lineage:
        buffer, output = torch.zeros(6), X.clone()
        lineage.add(output)
        buffer[:2] = output[:2]
        assert lineage.holds(buffer[3:])
        buffer[3:] = 0
        assert lineage.holds(buffer)
        buffer.fill_(0)
        assert not lineage.holds(buffer)
        buffer += output
        assert lineage.holds(buffer)
