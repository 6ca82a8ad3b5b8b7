"""Which changes of an evaluation make it another one."""

import functools
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from inc_autotune.core.search.study.code_fingerprint import callable_fingerprint


def made(source, name="evaluate", **around):
    """What a source text defines; its lines may lie anywhere, its globals are `around`."""
    namespace = {"__name__": "program", **around}
    exec(source, namespace)
    return namespace[name]


def same(one, other):
    return callable_fingerprint(one) == callable_fingerprint(other)


PLAIN = "def evaluate(model):\n    return 1.0"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (PLAIN, f"\n\n\n{PLAIN}", True),
        (PLAIN, PLAIN.replace("1.0", "0.5"), False),
        (PLAIN, PLAIN.replace("return 1.0", "return model.score"), False),
        ("evaluate = lambda model: model.a()", "evaluate = lambda model: model.b()", False),
        ("evaluate = lambda model: {'a', 'b', 'c'}", "evaluate = lambda  model:  {'a', 'b', 'c'}", True),
        ("def evaluate(model, k=1): return k", "def evaluate(model, k=2): return k", False),
        ("def evaluate(model, *, k=1): return k", "def evaluate(model, *, k=2): return k", False),
        (
            "def evaluate(m):\n  def f(): return 1\n  return f()",
            "def evaluate(m):\n  def f(): return 2\n  return f()",
            False,
        ),
        ("def f(): return 1\ndef evaluate(m): return f()", "def f(): return 2\ndef evaluate(m): return f()", False),
        ("K = 1\ndef evaluate(m): return K", "K = 2\ndef evaluate(m): return K", True),
        ("K = 1,\ndef evaluate(m): return K", "K = 1, 2\ndef evaluate(m): return K", True),
        ("n = 1\ndef evaluate(m):\n  global n\n  n += 1", "n = 2\ndef evaluate(m):\n  global n\n  n += 1", True),
        ("D = [1]\ndef evaluate(m): return D", "D = [1, 2]\ndef evaluate(m): return D", True),
        ("P = '/tmp/a'\ndef evaluate(m): return P", "P = '/tmp/b'\ndef evaluate(m): return P", True),
    ],
)
def test_code_counts_but_not_lines_data_or_what_it_reads_around_it(one, other, equal):
    assert same(made(one), made(other)) is equal


def closure(k, data, score):
    calls = 0

    def evaluate(model):
        nonlocal calls
        calls += 1
        data.append(score(model) + k)
        return data[-1]

    return evaluate


def test_closures_partials_and_decorators():
    def one(model):
        return 1

    def two(model):
        return 2

    assert same(closure(1, [], one), closure(1, [5], one))
    assert same(closure(1, [], one), closure(2, [], one))
    assert not same(closure(1, [], one), closure(1, [], two))
    counted = closure(1, [], one)
    before = callable_fingerprint(counted)
    counted(None)
    assert callable_fingerprint(counted) == before
    assert same(functools.partial(one, 3), functools.partial(one, 3))
    assert not same(functools.partial(one, 3), functools.partial(one, 4))
    assert not same(functools.partial(one, k=3), functools.partial(one, k=4))
    assert not same(functools.cache(one), functools.cache(two))
    assert not same(functools.wraps(one)(lambda model: one(model)), functools.wraps(two)(lambda model: two(model)))


class Evaluation:
    def __init__(self, k, data=()):
        self.k, self.data, self.calls, self.dtype = k, list(data), 0, np.dtype("float32")
        self.scale = np.float32(k)

    def __call__(self, model):
        self._count()
        return self.k

    def _count(self):
        self.calls += 1

    def score(self, model):
        return self.k


def test_objects_and_their_methods():
    for take in (lambda each: each, lambda each: each.score):
        assert same(take(Evaluation(1)), take(Evaluation(1, [1, 2])))
        assert not same(take(Evaluation(1)), take(Evaluation(2)))
    called = Evaluation(1)
    called(None)
    assert same(called, Evaluation(1))
    other = Evaluation(1)
    other.dtype = np.dtype("float64")
    assert not same(other, Evaluation(1))
    other = Evaluation(1)
    other.scale = np.float32(2)
    assert not same(other, Evaluation(1))

    class Derived(Evaluation):
        def score(self, model):
            return super().score(model)

    assert not same(Derived(1), Evaluation(1))


def test_what_refers_to_itself_has_an_end():
    @dataclass
    class Node:
        other: object = None

        def __call__(self, model):
            return again(model)

    def again(model):
        return again(model)

    node = Node()
    node.other = Node(node)
    assert same(node, node)
    assert same(again, again)


def test_installed_code_is_known_by_its_name():
    assert same(np.linalg.norm, np.linalg.norm)
    assert not same(np.linalg.norm, np.linalg.det)
    assert not same(len, sum)


PROGRAM = """
import functools
from inc_autotune.core.search.study.code_fingerprint import callable_fingerprint
NAMES = frozenset({"a", "b", "c"})
class Metric:
    words = ("x", "y")
    def __init__(self): self.open, self.names, self.lock = object(), NAMES, lambda: None
    def update(self, value): return value in {"d", "e", "f"}
def evaluate(model, metric=Metric()): return metric.update(model) in NAMES
print(callable_fingerprint(functools.partial(evaluate, metric=Metric())))
"""


def test_two_processes_agree():
    def run(seed):
        program = "\n" * int(seed) + PROGRAM
        given = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, check=True).stdout

    assert run("1") == run("2") != b""
