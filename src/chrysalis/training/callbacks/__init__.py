"""What happens around the training steps: EMA, measurements, sample grids, checkpoints, export."""
