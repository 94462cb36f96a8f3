"""Many runs: axes, the plan of what is left to do, its execution, and the launchers."""
