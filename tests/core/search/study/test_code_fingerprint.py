"""Which changes of an evaluation make it another one."""

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

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
        (PLAIN, f"# why\n{PLAIN}  # because", True),
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
        ("def evaluate(m, sizes=(1, 5)): return sizes", "def evaluate(m, sizes=(1, 9)): return sizes", False),
        ("def evaluate(m, path='/tmp/a'): return path", "def evaluate(m, path='/tmp/b'): return path", True),
        ("def evaluate(m): return '/tmp/a'", "def evaluate(m): return '/tmp/b'", False),
        (
            "class C:\n  k = 1\n  def f(self): return self.k\ndef evaluate(m): return C().f()",
            "class C:\n  k = 2\n  def f(self): return self.k\ndef evaluate(m): return C().f()",
            False,
        ),
        (
            "class C:\n  def f(self): return 1\nc = C()\ndef evaluate(m): return c.f()",
            "class C:\n  def f(self): return 2\nc = C()\ndef evaluate(m): return c.f()",
            False,
        ),
    ],
)
def test_code_counts_but_not_lines_data_or_values_of_globals(one, other, equal):
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
    assert not same(closure(1, [], one), closure(2, [], one))
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


def test_functions_on_one_line_are_told_apart():
    assert not same(*(lambda model: 1, lambda model: 2))


def test_functions_of_the_users_modules_count():
    def evaluation(result, unused=0):
        inner, outer = ModuleType("program.inner"), ModuleType("program")
        exec(f"def score(model): return {result}\ndef other(model): return {unused}", vars(inner))
        outer.inner, inner.outer = inner, outer
        return made("def evaluate(model): return program.inner.score(model)", program=outer)

    assert same(evaluation(1), evaluation(1))
    assert not same(evaluation(1), evaluation(2))
    assert same(evaluation(1), evaluation(1, unused=1))


def test_a_long_chain_of_functions_has_an_end():
    source = "\n".join(f"def f{place}(m): return f{place + 1}(m)" for place in range(3000))
    one, other = (f"{source}\ndef f3000(m): return {result}" for result in (1, 2))
    assert not same(made(one, "f0"), made(other, "f0"))


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


def test_attributes_that_a_call_assigns_are_no_settings():
    class Sized:
        def __init__(self, size):
            self._set_up(size)

        def _set_up(self, size):
            self.size = size

        def __call__(self, model):
            self.last = self.words
            return self.size

        @functools.cached_property
        def words(self):
            return (1, 2)

    assert not same(Sized(1), Sized(2))
    called = Sized(1)
    called(None)
    assert same(called, Sized(1))


def test_attributes_in_slots_and_objects_inside_count():
    @dataclass
    class Inner:
        __slots__ = ("k",)
        k: int

    @dataclass
    class Outer:
        __slots__ = ("inner",)
        inner: Inner

        def __call__(self, model):
            return self.inner.k

    assert same(Outer(Inner(1)), Outer(Inner(1)))
    assert not same(Outer(Inner(1)), Outer(Inner(2)))


def test_objects_of_packages_count_by_their_class():
    """The command line may hold limits of the search, and names of files and processes."""
    given = [SimpleNamespace(rank=1), SimpleNamespace(rank=2), np.random.default_rng(0)]
    first, second, other = (closure(value, [], len) for value in given)
    assert same(first, second)
    assert not same(first, other)


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
