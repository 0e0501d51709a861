"""What happens around training steps: averages, measurements, images, files."""
