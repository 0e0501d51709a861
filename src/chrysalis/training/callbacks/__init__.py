"""What happens around training steps: averages, measurements, pictures, files."""
