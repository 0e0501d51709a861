"""`make gpu`: check and measure this project on an NVIDIA GPU in at most nine minutes."""
