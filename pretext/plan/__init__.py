"""What a pretraining will take, measured before it is started."""
