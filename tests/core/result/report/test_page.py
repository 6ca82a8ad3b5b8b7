"""The HTML page, read back the way a browser would."""

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from inc_autotune.core.adaptor import UnitSpeed
from inc_autotune.core.analysis import BY_SECOND_MOMENTS
from inc_autotune.core.analysis.sensitivity import UnitHarm
from inc_autotune.core.arguments.autotune import validate_arguments
from inc_autotune.core.op_config import FP32
from inc_autotune.core.result.operator_outcome import OperatorOutcome
from inc_autotune.core.result.tuning_result import TuningResult
from inc_autotune.core.search.study.trial import Trial
from inc_autotune.core.space.units import Assignment
from inc_autotune.core.tuner import tune
from inc_autotune.testing import NumpyAdaptor, random_model

VOID = {"meta", "input"}
HOSTILE = "</script><script>alert(1)</script><a href='http://example.org'>x</a>&amp;%{x}"


class Page(HTMLParser):
    """Elements with their attributes and text; complains about tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, **dict(attributes), "text": "", "inside": [each["tag"] for each in self.open]}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    @property
    def charts(self):
        (data,) = [each for each in self.all("script") if each.get("id") == "charts"]
        return json.loads(data["text"])

    @property
    def text(self):
        (main,) = self.all("main")
        return main["text"]


def result(**changes) -> TuningResult:
    plain = TuningResult(
        met=True,
        baseline=0.8,
        score=0.795,
        goal=">= 0.792 (relative 0.01 of 0.8)",
        trials=(trial(0, 0.795, met=True),),
        evaluations=2,
        operators=operators(4),
        speedup=2.31,
        gain=2.31,
        size_ratio=3.6,
        smoothing=(("layer-wise", 1e-5), ("alpha 0.5", 3e-5), ("off", 1e-3)),
        sampling_size=100,
        phases={"calibration": 4.25, "evaluation": 12.0},
        target=0.792,
        chosen=0,
    )
    return dataclasses.replace(plain, **changes)


def trial(number, score=None, **given) -> Trial:
    state = "failed" if score is None else "complete"
    return Trial(number, Assignment((("unit", FP32),), 100), f"trial label {number}", state, score, **given)


def operators(count, name="block.{}.dense") -> tuple[OperatorOutcome, ...]:
    return tuple(
        OperatorOutcome(name.format(place), "Linear", "int8", "static", 0.1 * (place % 11), "")
        for place in range(count)
    )


@pytest.fixture
def saved(tmp_path):
    pytest.importorskip("plotly")

    def save(what: TuningResult) -> Page:
        what.save_report(tmp_path / "report.html")
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return save


def test_the_headline_says_what_was_reached(saved):
    page = saved(result())
    assert "Accuracy goal met" in page.text
    assert "Score 0.795 against 0.8 in fp32; the goal is >= 0.792" in page.text
    assert {"2.31x", "3.60x"} <= {each["text"][:5] for each in page.all("dd")}


def test_an_unmet_goal_and_a_slower_model_are_said(saved):
    page = saved(result(met=False, speedup=0.87))
    assert "Accuracy goal not met" in page.text
    assert "best model found in 1 trials" in page.text
    assert "slower than fp32" in page.text


def test_nothing_evaluated_is_no_claim(saved):
    page = saved(
        TuningResult(None, None, None, None, (), 0, (), speedup=None, size_ratio=None, smoothing=(), sampling_size=0)
    )
    assert "No claim about accuracy" in page.text
    assert "Nothing was evaluated" in page.text
    assert page.charts == {}


def test_a_real_run_shows_every_chart(saved):
    scores = iter([1.0, 0.5, 0.7, 1.0])
    data = [np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)]
    arguments = validate_arguments(
        strategies=["auto"], backends=["default"], progress=False, smoothquant_args={"alpha": "auto"}
    )
    tuned = tune(NumpyAdaptor(), random_model(6, outlier=20.0), data, lambda model: next(scores), arguments).result
    assert tuned.chosen == 2
    assert tuned.target == 0.99
    assert len(tuned.harms) == 6
    page = saved(tuned)
    assert {"accuracy-trial", "sensitivity", "alpha", "smoothing", "phases"} <= set(page.charts)
    bars = [length for trace in page.charts["sensitivity"]["data"] for length in trace["x"]]
    assert sorted(bars) == sorted(harm.error for harm in tuned.harms)
    lines = {shape["name"]: shape["y0"] for shape in page.charts["accuracy-trial"]["layout"]["shapes"]}
    assert lines == {"goal": 0.99, "fp32 model": 1.0}


def test_trials_stand_at_their_measured_gain(saved):
    trials = (trial(0, 0.7), trial(1, 0.795, met=True, gain=2.0), trial(2, 0.793, met=True, gain=2.5), trial(3))
    page = saved(result(trials=trials, chosen=2))
    traces = {trace["name"]: trace for trace in page.charts["accuracy-gain"]["data"]}
    assert (traces["goal met"]["x"], traces["goal met"]["y"]) == ([2.0, 2.5], [0.795, 0.793])
    assert (traces["returned model"]["x"], traces["fp32 model"]["x"]) == ([2.5], [1.0])
    by_number = {trace["name"]: trace["x"] for trace in page.charts["accuracy-trial"]["data"]}
    assert by_number == {"goal met": [2.0, 3.0], "not met": [1.0], "returned model": [3.0]}
    assert "Failed, without a score: 1" in page.text


def test_the_returned_model_has_the_gain_measured_at_the_end(saved):
    page = saved(result())
    assert "accuracy-trial" not in page.charts
    assert page.charts["accuracy-gain"]["data"][1]["x"] == [2.31]
    assert "accuracy-gain" not in saved(result(gain=None)).charts


@pytest.mark.parametrize(
    ("objective", "axis", "column"),
    [
        ("performance", "speed-up over fp32", "speed-up"),
        ("modelsize", "times smaller than fp32 weights", "smaller weights"),
        ("footprint", "times less memory than fp32", "less memory"),
    ],
)
def test_a_gain_is_called_what_the_objective_counts(saved, objective, axis, column):
    page = saved(result(objective=objective))
    assert page.charts["accuracy-gain"]["layout"]["xaxis"]["title"]["text"] == axis
    assert column in [each["text"] for each in page.all("th")]


def test_the_memory_saved_is_a_key_figure_where_it_was_the_objective(saved):
    assert "Less memory" in [each["text"] for each in saved(result(objective="footprint")).all("dt")]
    assert "Less memory" not in [each["text"] for each in saved(result()).all("dt")]


def test_a_verdict_stands_with_its_interval_and_number_of_samples(saved):
    decided = trial(0, 0.795, met=True, verdict="pass", interval=(-0.001, 0.006), samples=96, stopped_early=True)
    unclear = trial(1, 0.79, verdict="undecided", interval=(-0.01, 0.03), samples=200)
    page = saved(result(trials=(decided, unclear, trial(2, 0.7, verdict="fail"), trial(3)), evidence="pass (n = 96)"))
    assert "Verdict: pass (n = 96)." in page.text
    rows = trial_rows(page)
    assert rows["1 (returned)"][2:5] == ["pass", "-0.001 to 0.006", "96, stopped early"]
    assert rows["2"][2:5] == ["undecided, not met", "-0.01 to 0.03", "200"]
    assert rows["3"][2:5] == ["fail", "no interval: one number", ""]
    assert rows["4"][1:5] == ["", "failed", "", ""]


@pytest.mark.parametrize(("goal", "ends"), [(">= 0.792", (0.794, 0.801)), ("<= 0.808", (0.799, 0.806))])
def test_the_interval_of_the_loss_is_drawn_around_the_score(saved, goal, ends):
    score = 0.8 - 0.003 if goal.startswith(">=") else 0.8 + 0.003
    scored = trial(0, score, met=True, verdict="pass", interval=(-0.001, 0.006), samples=50)
    page = saved(result(trials=(scored,), goal=goal, score=score))
    (trace,) = [each for each in page.charts["accuracy-gain"]["data"] if each["name"] == "goal met"]
    bars = trace["error_y"]
    assert score - bars["arrayminus"][0] == pytest.approx(ends[0])
    assert score + bars["array"][0] == pytest.approx(ends[1])
    low, high = page.charts["accuracy-gain"]["layout"]["yaxis"]["range"]
    assert low < ends[0]
    assert high > ends[1]


def test_an_undecided_verdict_is_in_the_headline(saved):
    unclear = trial(0, 0.795, met=True, verdict="undecided", interval=(-0.01, 0.03), samples=40)
    assert "Accuracy goal met, within the noise of the evaluation" in saved(result(trials=(unclear,))).text


def test_a_trial_that_another_process_still_evaluates_is_labelled(saved):
    running = dataclasses.replace(trial(1), state="running")
    page = saved(result(met=False, trials=(trial(0, 0.7), running)))
    assert "Still running in other processes when this run ended: 1." in page.text
    assert trial_rows(page)["2"][1:3] == ["", "still running"]
    assert "best model found in 1 trials" in page.text
    assert "without a score" not in page.text


def trial_rows(page) -> dict[str, list[str]]:
    """Cells of the trial table by the text of the row's header."""
    table = next(place for place, each in enumerate(page.elements) if each.get("id") == "trials")
    rows, cells = {}, []
    for element in page.elements[table:]:
        if element["tag"] == "section":
            break
        if element["tag"] == "th" and element["scope"] == "row":
            cells = rows.setdefault(element["text"], [])
        elif element["tag"] == "td":
            cells.append(element["text"])
    return rows


def test_what_was_tried_is_seen_without_scrolling(saved):
    page = saved(result(trials=(dataclasses.replace(trial(0, 0.7), label="tried", error="why it failed"),)))
    assert next(iter(trial_rows(page).values()))[0] == "tried: why it failed"


def test_equal_scores_still_leave_room_around_them(saved):
    page = saved(result(baseline=0.0, target=0.0, score=0.0, trials=(trial(0, 0.0, met=True),)))
    low, high = page.charts["accuracy-gain"]["layout"]["yaxis"]["range"]
    assert low < 0 < high


def test_every_operator_and_trial_is_in_a_table(saved):
    names = [each.name for each in operators(300)]
    page = saved(result(operators=operators(300), trials=tuple(trial(place, 0.7) for place in range(50))))
    headers = [each["text"] for each in page.all("th") if each.get("scope") == "row"]
    assert set(names) <= set(headers)
    assert {"1 (returned)", "50"} <= set(headers)
    assert "ticktext" not in page.charts["alpha"]["layout"]["xaxis"]


def test_the_sensitivity_chart_stays_readable_and_its_table_complete(saved):
    harms = [UnitHarm(f"unit{place}", 10.0**-place) for place in range(1, 100)]
    page = saved(result(harms=(*harms, UnitHarm("harmless", 0.0), UnitHarm("late", None))))
    layout = page.charts["sensitivity"]["layout"]
    assert layout["xaxis"]["type"] == "log"
    assert layout["yaxis"]["ticktext"] == [f"unit{place}" for place in range(1, 41)]
    rows = [each["text"] for each in page.all("tr")]
    assert "unit991.000e-99" in rows
    assert "harmless0.000e+00" in rows
    assert "latenot measured" in rows


def test_both_halves_of_a_harm_are_marked(saved):
    harms = (UnitHarm("block.0.dense", 1e-2, weight_error=1e-4, activation_error=9e-3), UnitHarm("block.1.dense", 1e-3))
    page = saved(result(harms=harms))
    marks = {each["name"]: (each["x"], each["y"]) for each in page.charts["sensitivity"]["data"]}
    assert marks["weights alone"] == ([1e-4], [0])
    assert marks["activations alone"] == ([9e-3], [0])
    assert page.charts["sensitivity"]["layout"]["xaxis"]["range"][0] <= -4
    assert "block.0.dense1.000e-021.000e-049.000e-03int8 static" in [each["text"] for each in page.all("tr")]


def test_an_estimate_does_not_pass_for_a_measurement(saved):
    harms = (UnitHarm("block.0.dense", 1e-2), UnitHarm("block.1.dense", 1e-3, estimated=True))
    page = saved(result(harms=harms))
    bars = {each["name"]: each.get("opacity", 1) for each in page.charts["sensitivity"]["data"]}
    assert bars["int8 static"] == 1
    assert bars["int8 static, estimated"] < 1
    assert "block.1.dense1.000e-03 (estimated)int8 static" in [each["text"] for each in page.all("tr")]


def test_operators_in_float_are_counted_by_reason(saved):
    def kept(name, reason):
        return OperatorOutcome(name, "Linear", "fp32", None, None, reason)

    slow = [kept(f"slow{place}", f"int8 is not faster here: 0.{place:02d}x of fp32 (alone)") for place in range(15)]
    harmful = [kept(f"bad{place}", f"harm rank {place} of 40: alone it costs 1e-{place}") for place in (1, 2)]
    page = saved(result(operators=(*operators(4), *harmful, *slow)))
    assert "In a float dtype: 17 of 21." in page.text
    rows = [each["text"] for each in page.all("tr")]
    names = ", ".join(f"slow{place}" for place in range(12))
    assert f"int8 is not faster here15{names} and 3 more" in rows
    assert "harm rank2bad1, bad2" in rows
    assert "None stays in a float dtype" in saved(result()).text


def test_what_a_slow_unit_is_said_to_be_is_one_reason(saved):
    class Slow(NumpyAdaptor):
        def unit_speeds(self, units, expired=lambda: False):
            return {unit.name: UnitSpeed(0.5 if index < 2 else 2.0, "alone") for index, unit in enumerate(units)}

    data = [np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)]
    arguments = validate_arguments(strategies=["auto"], backends=["default"], progress=False)
    page = saved(tune(Slow(), random_model(4), data, lambda model: 1.0, arguments).result)
    assert "int8 is not faster here2dense0, dense1" in [each["text"] for each in page.all("tr")]


def test_long_names_keep_their_ends(saved):
    page = saved(result(operators=operators(3, "encoder." * 10 + "layer.{}.dense")))
    ticks = page.charts["alpha"]["layout"]["xaxis"]["ticktext"]
    assert [tick.endswith(f".layer.{place}.dense") for place, tick in enumerate(ticks)] == [True] * 3
    assert max(map(len, ticks)) < 40


def test_text_is_text(saved):
    bad = OperatorOutcome("<script>", HOSTILE, "int8", "static", 0.5, HOSTILE)
    page = saved(
        result(
            operators=(bad, dataclasses.replace(bad, name=HOSTILE)),
            harms=(UnitHarm("<script>", 0.1), UnitHarm(HOSTILE, 0.01)),
            trials=(dataclasses.replace(trial(0, 0.7), label=HOSTILE, error=HOSTILE),),
            smoothing=((HOSTILE, 0.1), ("off", 0.2)),
            phases={HOSTILE: 1.0},
            notes=(HOSTILE,),
        )
    )
    assert len(page.all("script")) == 3
    assert page.all("a") == []
    assert page.text.count(HOSTILE) >= 8
    # Plotly reads some HTML in labels, so there it must be escaped once more.
    assert page.charts["alpha"]["layout"]["xaxis"]["ticktext"][0] == "&lt;script&gt;"
    assert "<" not in json.dumps([each["layout"] for each in page.charts.values()])
    assert not re.search(
        r"<(?!extra|br)", json.dumps([each["data"] for each in page.charts.values()]).replace("</", "")
    )


def test_the_page_asks_the_network_for_nothing(saved):
    page = saved(result(notes=("see https://example.org",)))
    assert [
        each for each in page.elements if "src" in each or "href" in each or each["tag"] in ("link", "iframe")
    ] == []
    (policy,) = [each["content"] for each in page.all("meta") if each.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    (style,) = page.all("style")
    assert "url(" not in style["text"]
    assert "@import" not in style["text"]


def test_the_page_is_accessible(saved):
    page = saved(result(harms=(UnitHarm("block.0.dense", 0.1),)))
    (html,) = page.all("html")
    assert html["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert len(page.all("h2")) == 7
    assert all(each.get("scope") in ("row", "col") for each in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    captions = {each["id"]: each["text"] for each in page.all("figcaption")}
    charts = [each for each in page.all("div") if each.get("role") == "img"]
    assert {each["id"] for each in charts} == set(page.charts)
    assert all(len(captions[each["aria-labelledby"]]) > 40 for each in charts)
    labels = {each["for"] for each in page.all("label")}
    assert {each["id"] for each in page.all("input")} == labels


def test_colours_are_variables_with_a_light_and_a_dark_value(saved):
    page = saved(result())
    (style,) = page.all("style")
    light, dark = style["text"].split("prefers-color-scheme: dark")
    used = set(re.findall(r'"(--\w+)"', json.dumps(page.charts)))
    assert used
    assert all(f"{name}:" in light and f"{name}:" in dark for name in used)


def test_the_same_result_gives_the_same_page(saved, tmp_path):
    saved(result())
    first = (tmp_path / "report.html").read_bytes()
    saved(result())
    assert (tmp_path / "report.html").read_bytes() == first
    assert len(first) < 8e6


def test_plotly_is_only_needed_for_the_report():
    code = (
        "import sys, inc_autotune.core.result.report\n"
        "assert 'plotly' not in sys.modules\n"
        "sys.modules['plotly'] = None\n"
        "from inc_autotune.core.result.tuning_result import TuningResult\n"
        "try:\n    TuningResult(None, None, None, None, (), 0, (), None, None, (), 0).save_report('unused.html')\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.startswith("MissingDependencyError plotly is not installed")
    assert "inc-autotune[report]" in output


def test_how_much_of_the_weights_is_int8_stands_at_the_top_and_by_operator(saved):
    page = saved(
        result(
            operators=(
                OperatorOutcome("fc", "Linear", "int8", "static", None, "", weight_share=0.6),
                OperatorOutcome("lstm", "LSTM", "fp32", None, None, "no (39 % of the weights)", weight_share=0.395),
                OperatorOutcome("small", "LSTM", "fp32", None, None, "no", weight_share=0.005),
            )
        )
    )
    leads = [each["text"] for each in page.all("p") if "lead" in (each.get("class") or "")]
    assert "int8: 60 % of the weights; largest in fp32: lstm (LSTM) 39 %." in leads
    cells = [each["text"] for each in page.all("td")]
    assert {"60 %", "39 %", "< 1 %"} <= set(cells)
    assert "no" in cells, "one reason, whatever the shares"


def test_corrections_stand_by_operator_with_what_they_brought(saved):
    bias = ("fast_bias_correction",)
    page = saved(
        result(
            operators=(
                OperatorOutcome("fc", "Linear", "int8", "static", None, "", corrections=bias),
                OperatorOutcome("lstm", "LSTM", "fp32", None, None, "no"),
            ),
            corrections=((*bias, 1e-3), ("off", 2e-3)),
        )
    )
    leads = [each["text"] for each in page.all("p") if "lead" in (each.get("class") or "")]
    compared = "output error on held-out samples: fast_bias_correction 1.00e-03, off 2.00e-03."
    assert f"Corrections: fast_bias_correction of 1 operators; {compared}" in leads
    assert bias[0] in [each["text"] for each in page.all("td")]
    assert "Corrections" not in saved(result(operators=operators(3))).text


def test_rounding_stands_by_operator_with_what_it_brought(saved):
    moments = "second_moment"
    rounded = result(
        operators=(
            OperatorOutcome("fc", "Linear", "int8", "static", 0.8, "", rounding=moments, smoothing_form="beta 0.1"),
            OperatorOutcome("table", "Embedding", "uint8", "weight_only", None, "", rounding_reason="no sums"),
            OperatorOutcome("head", "Linear", "fp32", None, None, "no"),
        ),
        smoothing=((f"alpha 0.8 {BY_SECOND_MOMENTS}", 1e-3), (f"off {BY_SECOND_MOMENTS}", None), ("alpha 0.8", 2e-3)),
    )
    page = saved(rounded)
    told = (
        "eights rounded by second moments of their inputs: 1 of 2 operators; output error on held-out samples: "
        "1.00e-03, to nearest 2.00e-03; to nearest: table (Embedding: no sums)"
    )
    assert f"W{told}." in [each["text"] for each in page.all("p") if "lead" in (each.get("class") or "")]
    assert {"second moment", "nearest", "beta 0.1"} <= {each["text"] for each in page.all("td")}
    assert f"w{told}" in str(rounded)
    table = str(rounded).splitlines()
    assert [line.split()[-4:] for line in table if line.startswith("fc ")] == [["beta", "0.1", "second", "moment"]]
    other = dataclasses.replace(rounded, operators=operators(3), smoothing=(("alpha 0.8", 2e-3),))
    assert other.describe_rounding() is None


def test_the_headline_says_when_nothing_was_gained(saved):
    page = saved(result(met=True, gain=0.97, operators=operators(3)))
    assert "Accuracy goal met, but nothing gained: " in page.text
    assert "0.97x" in page.text
