"""`make bench`: this project beside the plain loop, figure by figure, on this machine."""
