"""Hugging Face folders: ``config.json`` with safetensors beside it, in and out."""
