"""What several tests share: one kit for each kind of fake."""
