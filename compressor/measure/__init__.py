"""What a network costs and how well it does: numbers stored, multiply-adds, latency, quality, fidelity."""

from compressor.measure.cost import count_macs, count_params
from compressor.measure.quality import Fidelity, Quality, check_metric, evaluate, fidelity, first_output
from compressor.measure.spectrum import low_rank_errors
from compressor.measure.speed import Latency, latencies, native_session, one_thread, ort_session, run_ort

__all__ = [
    "Fidelity",
    "Latency",
    "Quality",
    "check_metric",
    "count_macs",
    "count_params",
    "evaluate",
    "fidelity",
    "first_output",
    "latencies",
    "low_rank_errors",
    "native_session",
    "one_thread",
    "ort_session",
    "run_ort",
]
