"""What training costs: steps and layers timed in turns, and the memory they need. The rows go to CSV files."""
