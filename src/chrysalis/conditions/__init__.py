"""Conditions of a model besides x_t and t: one file per kind in kinds/, and the conditioner that adds them."""
