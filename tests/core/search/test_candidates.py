"""What a candidate gains is measured once where it is asked for twice in a row."""

from inc_autotune.core.progress import Phases
from inc_autotune.core.search import candidates
from inc_autotune.core.search.candidates import Candidates
from inc_autotune.core.search.options import offered_options
from inc_autotune.core.space import build_space
from inc_autotune.testing import NumpyAdaptor, random_model


def test_the_last_gain_is_not_measured_again(monkeypatch):
    adaptor, model = NumpyAdaptor(), random_model()
    space = build_space(offered_options(adaptor, model))
    asked = []

    def gain(adaptor, objective, model, candidate):
        asked.append(objective)
        return 2.0 + len(asked)

    monkeypatch.setattr(candidates, "gain", gain)
    found = Candidates(adaptor, model, lambda tune_cfg: model, space, Phases(show=False, limit=0), None)
    quantized = space.default(64)
    other = space.without(quantized, [space.units[0].name])
    assert found.last_gain(quantized, model, "performance") == 3.0
    assert found.last_gain(quantized, model, "performance") == 3.0
    assert found.last_gain(quantized, model, "modelsize") == 4.0
    assert found.last_gain(other, model, "performance") == 5.0
    assert found.gain(other, model, "performance") == 6.0  # asked for anew
    assert found.last_gain(other, model, "performance") == 6.0
    assert asked == ["performance", "modelsize", "performance", "performance"]
