"""Sweeps of many runs: axes, plan, execution, display, and the launchers."""
