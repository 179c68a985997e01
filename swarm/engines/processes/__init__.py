"""Engines that run one process for each loaded model: what is started, with which file, adopted and ended."""
