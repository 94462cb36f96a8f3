"""Figures of a study and of a bench; `analysis.outputs` lists the figures of a study."""
