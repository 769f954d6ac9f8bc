"""Fast transforms under the structured layers: plain torch as reference and fallback."""
