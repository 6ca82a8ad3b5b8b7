"""Mean average precision, compared with COCO's own evaluation where that is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inc_autotune.core.errors import DataError
from inc_autotune.core.evaluation.detection import average_precision, intersection_over_union
from inc_autotune.core.evaluation.metric import make_metric

Images = list[dict[str, Any]]


def scene(seed: int, images: int = 6) -> tuple[Images, Images]:
    """Labels, and boxes found near some of them and elsewhere."""
    generator = np.random.default_rng(seed)
    found, expected = [], []
    for _ in range(images):
        count = int(generator.integers(1, 7))
        corner = generator.uniform(0, 80, (count, 2))
        boxes = np.concatenate([corner, corner + generator.uniform(8, 30, (count, 2))], 1)
        classes = generator.integers(0, 3, count)
        extra = int(generator.integers(0, 4))
        guesses = np.concatenate([boxes + generator.normal(0, 2, boxes.shape), generator.uniform(0, 50, (extra, 4))])
        guesses[count:, 2:] += guesses[count:, :2]
        guessed = np.concatenate([classes, generator.integers(0, 3, extra)])
        scores = generator.permutation(len(guesses)) / 10 + generator.uniform(0, 0.01, len(guesses))
        found.append({"boxes": guesses, "scores": scores, "labels": guessed})
        expected.append({"boxes": boxes, "labels": classes})
    return found, expected


def value_of(metric: Any, found: Any, expected: Any) -> float:
    made = make_metric(metric)
    made.update(found, expected)
    return float(made.compute())


def test_average_precision_by_hand() -> None:
    hits = np.asarray([True, False, True, False])
    assert average_precision(hits, 4, 0) == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    # Recalls 0, 0.1, 0.2 have precision 1, then up to 0.5 two thirds, then nothing.
    assert average_precision(hits, 4, 11) == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)
    assert average_precision(hits[:0], 3, 0) == 0


def test_overlap_by_hand() -> None:
    boxes = np.asarray([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
    assert intersection_over_union(boxes[:1], boxes) == pytest.approx(np.asarray([[1, 1 / 7, 0]]))


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_coco_computes(seed: int) -> None:
    pytest.importorskip("pycocotools", reason="COCO's evaluation is not installed")
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found, expected = scene(seed)

    def entries(images: Images) -> list[dict[str, Any]]:
        return [
            {
                "id": 100 * place + number + 1,
                "image_id": place,
                "category_id": int(label),
                "bbox": [*box[:2], *(box[2:] - box[:2])],
                "area": float((box[2:] - box[:2]).prod()),
                "iscrowd": 0,
                **({"score": float(image["scores"][number])} if "scores" in image else {}),
            }
            for place, image in enumerate(images)
            for number, (box, label) in enumerate(zip(image["boxes"], image["labels"], strict=True))
        ]

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": place} for place in range(len(found))],
            "categories": [{"id": each} for each in range(3)],
            "annotations": entries(expected),
            "info": {},
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(entries(found)), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    assert 0.2 < judged.stats[0] < 0.98
    assert value_of("cocomap", found, expected) == pytest.approx(judged.stats[0], abs=1e-9)
    assert value_of({"map": {"map_points": 101}}, found, expected) == pytest.approx(judged.stats[1], abs=1e-9)


def test_every_form_of_outputs_gives_the_same() -> None:
    found, expected = scene(5)
    most = 12

    def padded(images: Images, key: str, fill: float) -> Any:
        rows = [np.asarray(each[key], np.float32) for each in images]
        return np.stack([np.concatenate([r, np.full((most - len(r), *r.shape[1:]), fill, np.float32)]) for r in rows])

    counts = np.asarray([len(each["boxes"]) for each in found])
    boxes, scores, classes = (padded(found, key, 0) for key in ("boxes", "scores", "labels"))
    labels = (padded(expected, "boxes", 0), padded(expected, "labels", -1))
    value = value_of("mAP", found, expected)
    assert 0.2 < value < 1
    named = {"num_detections": counts, "detection_boxes": boxes, "detection_scores": scores}
    forms: list[Any] = [(counts, boxes, scores, classes), named | {"detection_classes": classes}]
    for form in forms:
        assert value_of("map", form, labels) == pytest.approx(value)
        assert value_of("map", form, expected) == pytest.approx(value)
    # The four parts that Neural Compressor's labels have, and outputs found by position.
    foreign = (labels[0], np.asarray([]), labels[1], np.arange(len(found)))
    places = {"boxes": 1, "scores": 3, "classes": 0, "num_detections": 2}
    by_place = {"map": {"output_index_mapping": places}}
    assert value_of(by_place, {"a": classes, "b": boxes, "c": counts, "d": scores}, foreign) == pytest.approx(value)
    turned = [{**each, "boxes": each["boxes"][:, [1, 0, 3, 2]]} for each in found]
    turned_labels = [{**each, "boxes": each["boxes"][:, [1, 0, 3, 2]]} for each in expected]
    assert value_of({"map": {"box_format": "yxyx"}}, turned, turned_labels) == pytest.approx(value)


def test_what_is_no_box() -> None:
    found, expected = scene(1)
    with pytest.raises(DataError, match="predictions are ndarray"):
        value_of("map", np.ones((2, 3)), expected)
    with pytest.raises(DataError, match="5 images are predicted, 6 are labelled"):
        value_of("map", found[:5], expected)
