"""Figures of a study and of a bench; `analysis.outputs` lists those of a study."""
