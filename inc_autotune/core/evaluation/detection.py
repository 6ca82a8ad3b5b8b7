"""Mean average precision of found objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from inc_autotune.core.arguments import shown
from inc_autotune.core.arrays import Array
from inc_autotune.core.data import describe, is_array
from inc_autotune.core.errors import ArgumentError, DataError
from inc_autotune.core.evaluation.named_metrics import as_numpy

BOX_FORMATS = ("xyxy", "yxyx", "xywh")
COCO_THRESHOLDS = "0.5:0.05:0.95"
MAP_POINTS = (0, 11, 101)

_KEYS = {
    "num": ("num_detections", "num"),
    "boxes": ("boxes", "detection_boxes", "bbox"),
    "scores": ("scores", "detection_scores"),
    "classes": ("labels", "classes", "detection_classes"),
}
_ALLOWED = (
    "Predictions are boxes [images, n, 4], scores [images, n] and classes [images, n], in this order or by these names "
    "or a list of dicts of one image each; labels are boxes and classes likewise, where classes below 0 are padding"
)


@dataclass(frozen=True)
class _Image:
    """What is in one image.

    Args:
        boxes: [n, 4] as left, top, right, bottom.
        classes: [n] integers.
        scores: [n]; None of labels.
    """

    boxes: Array
    classes: Array
    scores: Array | None = None


class MeanAveragePrecision:
    """Mean over classes, and over thresholds, of the average precision of found boxes.

    Found boxes are matched by decreasing score, each with the label of its class that it overlaps most and that no
    other box has taken, as COCO's evaluation does.

    Args:
        iou_thrs: the least intersection over union of a match: a number, "start:step:stop", or a list.
        map_points: 0: area under the curve of precision over recall; 11 or 101: mean at so many recalls.
        box_format: "xyxy", "yxyx" (TensorFlow's) or "xywh" (corner, width and height).
        output_index_mapping: where in the model's outputs `boxes`, `scores`, `classes` and `num_detections` are, by
            position; -1: nowhere. None: by their names, else in this order.
    """

    higher_is_better: ClassVar[bool] = True
    takes_all_outputs: ClassVar[bool] = True

    def __init__(
        self,
        iou_thrs: float | str | Sequence[float] = 0.5,
        map_points: int = 0,
        box_format: str = "xyxy",
        output_index_mapping: Mapping[str, int] | None = None,
    ) -> None:
        if map_points not in MAP_POINTS:
            raise ArgumentError(f"eval_metric: map: map_points={shown(map_points)}. Allowed: 0, 11 or 101.")
        if box_format not in BOX_FORMATS:
            allowed = ", ".join(map(repr, BOX_FORMATS))
            raise ArgumentError(f"eval_metric: map: box_format={shown(box_format)}. Allowed: {allowed}.")
        self._thresholds = _thresholds(iou_thrs)
        self._points = map_points
        self._box_format = box_format
        self._places = _places(output_index_mapping)
        self.reset()

    def reset(self) -> None:
        self._found: list[_Image] = []
        self._expected: list[_Image] = []

    def update(self, predictions: Any, labels: Any) -> None:
        found = [self._image(*each) for each in _images(predictions, self._places, scored=True)]
        expected = [self._image(*each) for each in _images(labels, None, scored=False)]
        if len(found) != len(expected):
            raise DataError(
                f"eval_metric='map': {len(found)} images are predicted, {len(expected)} are labelled. {_ALLOWED}."
            )
        self._found += found
        self._expected += expected

    def _image(self, boxes: Array, classes: Array, scores: Array | None) -> _Image:
        boxes = boxes.reshape(-1, 4).astype(np.float64)
        if self._box_format == "yxyx":
            boxes = boxes[:, [1, 0, 3, 2]]
        elif self._box_format == "xywh":
            boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        kept = classes >= 0
        return _Image(boxes[kept], classes[kept].astype(np.int64), None if scores is None else scores[kept])

    def compute(self) -> float:
        classes = sorted({int(each) for image in self._expected for each in image.classes})
        precisions = [
            average_precision(*self._matches(number, threshold), self._points)
            for number in classes
            for threshold in self._thresholds
        ]
        return float(np.mean(precisions)) if precisions else math.nan

    def _matches(self, number: int, threshold: float) -> tuple[Array, int]:
        """Whether each found box of a class matches a label, by decreasing score, and how many labels there are."""
        scores, hits, count = [], [], 0
        for found, expected in zip(self._found, self._expected, strict=True):
            assert found.scores is not None
            mine = np.flatnonzero(found.classes == number)
            mine = mine[np.argsort(-found.scores[mine], kind="stable")]
            labelled = expected.boxes[expected.classes == number]
            overlaps = intersection_over_union(found.boxes[mine], labelled)
            free = np.ones(len(labelled), bool)
            for row in overlaps:
                best = int(np.where(free, row, -1.0).argmax()) if len(row) else -1
                hit = best >= 0 and bool(free[best]) and row[best] >= threshold
                hits.append(hit)
                if hit:
                    free[best] = False
            scores.append(found.scores[mine])
            count += len(labelled)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        return np.asarray(hits, bool)[order], count


class CocoMeanAveragePrecision(MeanAveragePrecision):
    """As COCO defines it: the mean over thresholds from 0.5 to 0.95, at 101 recalls."""

    def __init__(
        self,
        iou_thrs: float | str | Sequence[float] = COCO_THRESHOLDS,
        map_points: int = 101,
        box_format: str = "xyxy",
        output_index_mapping: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(iou_thrs, map_points, box_format, output_index_mapping)


def average_precision(hits: Array, count: int, points: int) -> float:
    """The average precision of found boxes by decreasing score.

    Args:
        hits: whether each is right, [found].
        count: how many there are to be found, at least 1.
        points: 0: the area under the curve whose precision never rises with recall; else the mean of that precision at
            so many recalls from 0 to 1.

    Source: Everingham et al., The PASCAL VOC challenge, IJCV 2010, section 4.2; Lin et al., Microsoft COCO, ECCV 2014.
    """
    if not len(hits):
        return 0.0
    right = np.cumsum(hits)
    recall, precision = right / count, right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if points == 0:
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    places = np.searchsorted(recall, np.linspace(0, 1, points), side="left")
    return float(np.append(envelope, 0.0)[places].mean())


def intersection_over_union(first: Array, second: Array) -> Array:
    """Of every pair of boxes [n, 4] and [m, 4] as left, top, right, bottom: [n, m]."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    size = np.clip(np.minimum(first[:, None, 2:], second[None, :, 2:]) - corner, 0, None)
    common = size.prod(-1)
    areas = [np.clip(each[:, 2:] - each[:, :2], 0, None).prod(-1) for each in (first, second)]
    union = areas[0][:, None] + areas[1][None] - common
    ratio: Array = common / np.maximum(union, 1e-12)
    return ratio


def _thresholds(given: float | str | Sequence[float]) -> list[float]:
    allowed = "a number from 0 to 1, '0.5:0.05:0.95', or a list of numbers"
    try:
        if isinstance(given, str) and ":" in given:
            start, step, stop = (float(part) for part in given.split(":"))
            found: list[float] = np.linspace(start, stop, round((stop - start) / step) + 1).tolist()
        else:
            found = [float(each) for each in ([given] if isinstance(given, int | float | str) else given)]
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ArgumentError(f"eval_metric: map: iou_thrs={shown(given)}. Allowed: {allowed}.") from error
    if not found or not all(0 < each <= 1 for each in found):
        raise ArgumentError(f"eval_metric: map: iou_thrs={shown(given)}. Allowed: {allowed}.")
    return found


def _places(mapping: Mapping[str, int] | None) -> dict[str, int] | None:
    if mapping is None:
        return None
    names = {"num_detections": "num", "boxes": "boxes", "scores": "scores", "classes": "classes"}
    if not isinstance(mapping, Mapping) or not {"boxes", "scores", "classes"} <= set(mapping) <= set(names):
        raise ArgumentError(
            f"eval_metric: map: output_index_mapping={shown(mapping)}. Allowed: a dict with the positions of 'boxes', "
            "'scores' and 'classes', and perhaps 'num_detections'."
        )
    return {names[name]: place for name, place in mapping.items() if place >= 0}


def _images(value: Any, places: dict[str, int] | None, *, scored: bool) -> list[tuple[Array, Array, Array | None]]:
    """Boxes, classes and scores of each image.

    Raises:
        DataError: the value is of no form that is known.
    """
    if isinstance(value, Sequence) and value and all(isinstance(each, Mapping) for each in value):
        return [image for each in value for image in _images(each, None, scored=scored)]
    parts = _parts(value, places, scored=scored)
    if parts is None:
        what = "predictions" if scored else "labels"
        raise DataError(f"eval_metric='map': {what} are {_described(value)}. {_ALLOWED}.")
    boxes, classes = as_numpy(parts["boxes"]), as_numpy(parts["classes"])
    if boxes.ndim == 2:
        boxes, classes = boxes[None], classes[None]
    scores = as_numpy(parts["scores"]).reshape(classes.shape) if scored else None
    counts = as_numpy(parts["num"]).ravel().astype(int) if "num" in parts else [boxes.shape[1]] * len(boxes)
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or classes.shape != boxes.shape[:2] or len(counts) != len(boxes):
        raise DataError(
            f"eval_metric='map': boxes {describe(parts['boxes'])} and classes {describe(parts['classes'])} do not fit. "
            f"{_ALLOWED}."
        )
    return [
        (boxes[image, :count], classes[image, :count], None if scores is None else scores[image, :count])
        for image, count in enumerate(counts)
    ]


def _parts(value: Any, places: dict[str, int] | None, *, scored: bool) -> dict[str, Any] | None:
    """The arrays by what they are, or None."""
    needed = ("boxes", "scores", "classes") if scored else ("boxes", "classes")
    if isinstance(value, Mapping):
        if places is None:
            found = {part: value[name] for part, names in _KEYS.items() for name in names if name in value}
            if set(needed) <= set(found):
                return found
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return None
    if places is not None:
        return {part: value[place] for part, place in places.items() if place < len(value)} if value else None
    if not scored and len(value) == 4:  # boxes, names and numbers of classes, and an image's name
        value = (value[0], value[2])
    order = needed if len(value) == len(needed) else ("num", *needed)
    return dict(zip(order, value, strict=True)) if len(value) == len(order) else None


def _described(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return describe(value) if is_array(value) else f"a {type(value).__name__}"
