"""What training costs: steps and layers timed in turns, and the memory that they need."""
