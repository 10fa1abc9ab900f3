"""What training and evaluation share: physical units, errors and rollouts."""
