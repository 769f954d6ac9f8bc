"""What a network costs and how well it does: numbers stored, multiply-adds, latency, quality, fidelity."""

from compressor.measure.cost import count_macs, count_params
from compressor.measure.quality import (
    IGNORED,
    Fidelity,
    Quality,
    check_evaluation,
    check_metric,
    difference,
    evaluate,
    fidelity,
    first_output,
    output_place,
)
from compressor.measure.spectrum import low_rank_errors
from compressor.measure.speed import Latency, latencies, native_session, one_thread, ort_session, run_ort

__all__ = [
    "IGNORED",
    "Fidelity",
    "Latency",
    "Quality",
    "check_evaluation",
    "check_metric",
    "count_macs",
    "count_params",
    "difference",
    "evaluate",
    "fidelity",
    "first_output",
    "latencies",
    "low_rank_errors",
    "native_session",
    "one_thread",
    "ort_session",
    "output_place",
    "run_ort",
]
