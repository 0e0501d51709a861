"""`make bench`: the speed of this project, compared with two baselines on this machine."""
