"""What a comparison says, and its page."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest

from inc_autotune.core.analysis.operator_errors import Histogram, OperatorError
from inc_autotune.core.result.comparison import Comparison

GOOD = OperatorError("first", "Linear", "int8 static", 40.0, 0.999, 41.0, (-1.0, 1.0), (-1.0, 1.0), 0.0, ((2, 30.0),))
OUTPUT = OperatorError("output", "output", "", 33.0, 0.99)


def made(*operators: OperatorError) -> Comparison:
    return Comparison((*operators, OUTPUT), 8, ("a note",))


def test_the_worst_come_first_by_what_they_add_themselves() -> None:
    late = replace(GOOD, name="late", sqnr=20.0, alone=45.0)
    bad = replace(GOOD, name="bad", sqnr=25.0, alone=22.0)
    in_fp32 = replace(GOOD, name="float", form="fp32", sqnr=10.0, alone=None)
    assert [each.name for each in made(GOOD, late, bad, in_fp32).worst] == ["bad", "first", "late"]
    assert made(GOOD).output == OUTPUT


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"saturated": 0.02}, ["1 inputs leave their", "most of bad (2 % of its values)", "sampling_sizes=[500]"]),
        (
            {"observed": (-0.1, 0.1), "alone": 39.0},
            ["the calibrated range of bad", "'bad': {'activation': {'algorithm'"],
        ),
        ({"alone": 20.0}, ["leave out what loses most: bad, more than 6 dB below the middle", "'bad': {'weight'"]),
        ({"alone": 39.0, "worst_channels": ((0, 2.0),)}, ["single channels of bad", "smoothquant_args"]),
    ],
)
def test_what_to_try_names_the_operator_and_the_argument(changed: dict[str, object], words: list[str]) -> None:
    others = [replace(GOOD, name=f"other{number}") for number in range(4)]
    bad = replace(GOOD, name="bad", **changed)  # type: ignore[arg-type]
    advice = made(*others, bad).what_to_try()
    assert all(word in advice[0] for word in words), advice
    assert "let the search decide" in advice[-1]
    assert len(made(*others).what_to_try()) == 1


def test_without_errors_of_single_operators_a_step_down_is_named() -> None:
    ratios = {"a": 40.0, "b": 39.0, "c": 28.0, "d": 27.0, "e": 30.0}
    curve = [replace(GOOD, name=name, sqnr=ratio, alone=None) for name, ratio in ratios.items()]
    assert "leave out what loses most: c, more than 6 dB below all before" in made(*curve).what_to_try()[0]


def test_tables_and_json() -> None:
    comparison = made(GOOD, replace(GOOD, name="second", sqnr=math.inf, alone=-math.inf, calibrated=None))
    text = str(comparison)
    assert "2 operators compared on 8 samples, 33.0 dB at the output" in text
    assert re.search(r"^second +Linear +int8 static +equal +lost ", text, re.MULTILINE)
    assert "1. " in text
    assert "note: a note" in text
    read = json.loads(comparison.to_json())
    assert read["operators"][0]["sqnr"] == 40.0
    assert read["operators"][1]["sqnr"] is None
    assert read["what_to_try"] == list(comparison.what_to_try())


def test_as_a_dataframe() -> None:
    pytest.importorskip("pandas", reason="the extra dataframe is not installed")
    table = made(GOOD).to_dataframe()
    assert table["operator"].tolist() == ["first", "output"]
    assert table.loc[0, "calibrated_maximum"] == 1.0
    assert table.loc[0, "worst_channel"] == 2


def test_the_page_has_curve_and_histograms(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("plotly")
    histogram = Histogram((0.0, 1.0, 2.0), (3, 1), (2, 2))
    many = [replace(GOOD, name=f"<op{number}>", alone=30.0 + number, histogram=histogram) for number in range(7)]
    made(*many).save_report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "33.0 dB at the output" in page
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', page).group(1))  # type: ignore[union-attr]
    assert list(charts) == ["curve", *(f"histogram{place}" for place in range(5))]
    so_far, alone = charts["curve"]["data"]
    assert so_far["y"] == [40.0] * 7 + [33.0]
    assert alone["y"] == [30.0 + number for number in range(7)]
    assert charts["histogram0"]["data"][0]["y"] == [75, 25, 25]
    assert "&lt;op0&gt;" in page
    assert "<op0>" not in page
