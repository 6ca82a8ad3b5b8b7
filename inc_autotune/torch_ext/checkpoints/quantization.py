"""`quantize_checkpoint`: a language model that does not fit into memory, quantized block by block."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import inc_autotune
from inc_autotune.core.arguments import check_path, shown
from inc_autotune.core.errors import ArgumentError, ModelError
from inc_autotune.core.op_config import OpConfig
from inc_autotune.core.progress import Phases
from inc_autotune.core.quantization import integer_type
from inc_autotune.torch_ext.checkpoints.around import look_around
from inc_autotune.torch_ext.checkpoints.result import CheckpointResult, PartOutcome
from inc_autotune.torch_ext.checkpoints.run import EMBEDDINGS, HEAD, CheckpointRun
from inc_autotune.torch_ext.checkpoints.sequences import digest_of_sequences, token_sequences
from inc_autotune.torch_ext.checkpoints.skeleton import Skeleton, build_skeleton
from inc_autotune.torch_ext.checkpoints.stored import Checkpoint, open_checkpoint
from inc_autotune.torch_ext.checkpoints.tuning import PartTuner
from inc_autotune.torch_ext.checkpoints.unfinished import Unfinished, open_unfinished
from inc_autotune.torch_ext.checkpoints.written import write_folder
from inc_autotune.torch_ext.hugging_face.tokenizer import tokenizer_files
from inc_autotune.torch_ext.operators import TABLE_TYPES

_SCALE_BYTES = 3
"""Of a group of weights: scale and zero point."""

_NOTEWORTHY = 0.01
"""The share of weights in float from which on the result says so."""

_SPARE = 2**24
"""Bytes for the files beside the weights."""


def quantize_checkpoint(
    checkpoint: str | Path,
    calib_dataloader: Any,
    output: str | Path,
    *,
    op_type_dict: Mapping[str, Any] | None = None,
    op_name_dict: Mapping[str, Any] | None = None,
    smoothquant_args: Mapping[str, Any] | None = None,
    recipes: Mapping[str, Any] | None = None,
    capability: str | Path | Mapping[str, Any] | Sequence[Any] | None = None,
    sampling_size: int = 100,
    blocks: str | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    progress: bool = True,
) -> CheckpointResult:
    """Quantize the weights of a language model block by block, from folder to folder, without holding it in memory.

    As `autotune(model, ..., approach="weight_only")` without an evaluation, for each block as for a model of its own:
    smoothing, rounding and corrections are those that come closest at the block's output. A block is calibrated on what
    the quantized blocks before it return, as in GPTQ. In memory are one block in float, the token ids, and the hidden
    states of all sequences. Killed, the same call goes on at the block where it was.

    Args:
        checkpoint: a folder of transformers with safetensors, in one file or several, in float32, bfloat16 or float16.
            It stays as it is.
        calib_dataloader: yields token ids [batch, tokens], or dicts with `input_ids` and perhaps `attention_mask`;
            padding is left out. Read once.
        output: the folder that is made, for `from_pretrained` and `load`. The same, unfinished, of an earlier call.
        op_type_dict: rules by operator type: `{"Linear": {"weight": {"dtype": ["int4"]}}}`. Default: 8 bits.
        op_name_dict: the same by operator name, such as `model.layers.0.mlp.down_proj`; wins over types.
        smoothquant_args: see `autotune`.
        recipes: see `autotune`: `smooth_quant`, `weight_rounding`, `fast_bias_correction` and `weight_correction`.
        capability: see `autotune`.
        sampling_size: sequences at most.
        blocks: name of the list of blocks, such as "model.layers". None: the list of equal modules with the most
            parameters.
        tokenizer: a tokenizer, or a folder with the files of one, for the output. None: that of the checkpoint.
        seed: of everything random.
        progress: whether to show a progress bar, with the time left.

    Returns:
        What became of each part; `print(result)` is a table. `from_pretrained(output)` is the model.

    Raises:
        ArgumentError: an argument is wrong, `output` holds another model or another run, or the disk has no room.
            Before any work, and nothing is lost.
        CapabilityError: a rule asks for what is not offered.
        DataError: there is no calibration data, or none that the model takes.
        MissingDependencyError: transformers is not installed.
        ModelError: files or tensors are missing, there is no list of blocks, or a weight is not finite.
    """
    # All that can be wrong is found out before there is anything to lose.
    if not isinstance(sampling_size, int) or isinstance(sampling_size, bool) or sampling_size < 1:
        raise ArgumentError(f"sampling_size={shown(sampling_size)}: not a number of sequences. Allowed: from 1.")
    place = check_path(output, "output", allowed="the name of a folder")
    given = {
        "op_type_dict": op_type_dict,
        "op_name_dict": op_name_dict,
        "smoothquant_args": smoothquant_args,
        "recipes": recipes,
        "capability": capability,
        "seed": seed,
    }
    tuner = PartTuner(given, sampling_size)
    tuner.arguments()
    if tokenizer is not None:
        tokenizer_files(tokenizer)
    source = open_checkpoint(checkpoint)
    skeleton = build_skeleton(source, blocks)
    table = skeleton.model.get_input_embeddings()
    positions = getattr(skeleton.model.config, "max_position_embeddings", None)
    sequences = token_sequences(calib_dataloader, sampling_size, int(table.num_embeddings), positions)
    planned = tuner.planned(skeleton.model)
    if not planned:
        raise ModelError(
            "checkpoint: nothing to quantize: the rules leave every operator in float. Allow integers for some with "
            "op_type_dict or op_name_dict."
        )
    parts = [EMBEDDINGS, *skeleton.block_names, HEAD]
    unfinished = open_unfinished(place, _asked(given, source, sequences, skeleton), parts)
    _check_room(unfinished, source, skeleton, planned, sequences)
    surroundings = look_around(skeleton, source, sequences)
    resumed_at = len(unfinished.records)
    unfinished.begin()
    run = CheckpointRun(source, skeleton, tuner, sequences, surroundings, planned, unfinished)
    run.complete(Phases(show=progress, limit=0))
    write_folder(unfinished, source, skeleton.model, tokenizer)
    result = _result(unfinished, source, sequences, skeleton, planned, resumed_at)
    unfinished.remove()
    return result


def _asked(
    given: Mapping[str, Any], source: Checkpoint, sequences: Sequence[Tensor], skeleton: Skeleton
) -> dict[str, str]:
    """What another call has to ask for to go on with this one."""
    return {
        **{name: repr(value) for name, value in given.items()},
        "blocks": skeleton.blocks,
        "checkpoint": source.digest,
        "calib_dataloader": digest_of_sequences(list(sequences)),
        "version of inc_autotune": inc_autotune.__version__,
    }


def _check_room(
    unfinished: Unfinished,
    source: Checkpoint,
    skeleton: Skeleton,
    planned: Mapping[str, tuple[str, OpConfig]],
    sequences: Sequence[Tensor],
) -> None:
    """Refuse a disk that the output does not fit on.

    Raises:
        ArgumentError: it does not.
    """
    done = {name for record in unfinished.records for name in record["tensors"]}
    paths = {name.rpartition(".")[0] for name in done}
    needed = _SPARE
    for name, stored in skeleton.stored.items():
        path, tensor = name.rpartition(".")[0], source.tensors[stored]
        if path in paths:
            continue
        if path not in planned or not name.endswith(".weight"):
            needed += tensor.nbytes
            continue
        kind, config = planned[path]
        numbers, row = math.prod(tensor.shape), tensor.shape[-1]
        group = row if kind in TABLE_TYPES else config.weight.group_size or row
        needed += numbers * max(integer_type(config.weight.dtype).bits, 4) // 8 + numbers // group * _SCALE_BYTES
    # While a part is written, its inputs and its outputs are both there.
    table = skeleton.model.get_input_embeddings()
    tokens = sum(each.shape[1] for each in sequences)
    needed += 2 * tokens * int(table.embedding_dim) * 4
    folder = next(each for each in (unfinished.output, *unfinished.output.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ArgumentError(
            f"output={str(unfinished.output)!r}: needs about {needed / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} "
            "GB left. Make room, or give a folder on another disk. Nothing was written."
        )


def _result(
    unfinished: Unfinished,
    source: Checkpoint,
    sequences: Sequence[Tensor],
    skeleton: Skeleton,
    planned: Mapping[str, tuple[str, OpConfig]],
    resumed_at: int,
) -> CheckpointResult:
    outcomes = tuple(
        PartOutcome(
            *(record["name"], record["dtypes"], record["how"]),
            *(record["error"], record["seconds"], record["bytes"]),
        )
        for record in unfinished.records
    )
    written = {name for record in unfinished.records for name in record["layer_dtypes"]}
    left = sorted({*planned} - written)
    notes = [f"{name} stays as given, although {planned[name][1].dtype} was planned: it did not run" for name in left]
    given = {name: stored for name, stored in skeleton.stored.items() if name.rpartition(".")[0] not in written}
    sizes = {stored: math.prod(source.tensors[stored].shape) for stored in given.values()}
    every = {stored: math.prod(source.tensors[stored].shape) for stored in skeleton.stored.values()}
    share = sum(sizes.values()) / max(sum(every.values()), 1)
    if share > _NOTEWORTHY:
        largest = max(sizes, key=lambda stored: sizes[stored])
        notes.append(
            f"{100 * share:.0f} % of the weights stay as given: {len(sizes)} tensors, of which {largest} is the largest"
        )
    return CheckpointResult(
        folder=unfinished.output,
        parts=outcomes,
        samples=len(sequences),
        tokens=sum(each.shape[1] for each in sequences),
        resumed_at=resumed_at,
        original_bytes=sum(each.nbytes for each in source.tensors.values()),
        notes=tuple(notes),
    )
