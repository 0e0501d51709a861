"""Swallowtails (Papilionidae) and whites (Pieridae), modelled on living species; wings.py paints them."""

from chrysalis.data.synthetic.backgrounds import garden, leaf, meadow, sky, stone
from chrysalis.data.synthetic.insects import Species, form
from chrysalis.data.synthetic.wings import (
    Outline,
    band,
    costa,
    dots,
    eye,
    fill,
    glow,
    half,
    margin,
    margin_dots,
    ray,
    tip,
    veins,
)

SWALLOWTAIL = Species(
    "swallowtail",
    "with black bands, blue crescents, a red eyespot and long tails",
    Outline(50, -16, (0.84, 1.0, 0.9, 0.8, 0.73, 0.68, 0.56), (0.04, -0.1), arch=0.1),
    Outline(
        20, -88, (0.5, 0.64, 0.68, 0.7, 0.7, 0.66, 0.5), (0.03, -0.07), scallops=(5, 0.06), tail=(0.72, 0.3, 0.045)
    ),
    (
        fill("ground"),
        glow("ink", 0.32, 0.1),
        veins("ink", 0.011),
        band("ink", 0.42, 0.075, 0.0),
        band("ink", 0.62, 0.05, 0.1),
        margin("ink", 0.15),
        costa("ink", 0.03),
        margin_dots("ground", 8, 0.92, 0.023, 1.3),
    ),
    (
        fill("ground"),
        half("ink", 0.75, 1.0),
        veins("ink", 0.01),
        margin("ink", 0.2),
        margin_dots("blue", 6, 0.83, 0.035, 1.4),
        margin_dots("ground", 6, 0.94, 0.022, 1.5),
        eye(0.72, 0.93, 0.06, ("ink", "red")),
    ),
    (
        form("yellow", ground="#f0d95a", ink="#18140f", blue="#4a78c8", red="#c8392b"),
        form("cream", ground="#f2ead0", ink="#1b1713", blue="#5f86c4", red="#cf4a32"),
    ),
)

WHITE = Species(
    "cabbage white",
    "with dark wing tips and two dark spots",
    Outline(48, -20, (0.8, 0.95, 0.9, 0.8, 0.76, 0.74, 0.66), (0.04, -0.1), arch=0.1),
    Outline(20, -88, (0.54, 0.7, 0.76, 0.76, 0.74, 0.7, 0.52), (0.03, -0.07)),
    (
        fill("ground"),
        glow("grey", 0.4, 0.0, 0.6),
        veins("shade", 0.006),
        tip("ink", 0.84, 0.6, 0.06),
        dots("ink", [(0.62, 0.42, 0.05), (0.56, 0.74, 0.045)]),
    ),
    (fill("ground"), glow("grey", 0.4, 0.0, 0.5), veins("shade", 0.006), dots("ink", [(0.72, 0.05, 0.04)])),
    (
        form("white", ground="#f6f4ea", grey="#a9a89c", shade="#dedccb", ink="#3a3732"),
        form("pale green", ground="#dfe8b8", grey="#9dab78", shade="#c5d192", ink="#3f4336"),
    ),
    body="#6a675f",
    backgrounds=(meadow, garden, sky, leaf, stone),
)

BRIMSTONE = Species(
    "brimstone",
    "with wings like leaves, an orange dot on each",
    Outline(52, -18, (0.78, 1.02, 0.82, 0.74, 0.74, 0.74, 0.6), (0.04, -0.1), arch=0.2),
    Outline(22, -88, (0.56, 0.72, 0.76, 0.74, 0.84, 0.7, 0.5), (0.03, -0.07)),
    (
        fill("ground"),
        glow("light", 0.3, 0.9, 0.5),
        veins("shade", 0.007),
        margin("shade", 0.014),
        dots("orange", [(0.5, 0.34, 0.042)]),
    ),
    (fill("ground"), glow("light", 0.3, 0.9, 0.4), veins("shade", 0.007), dots("orange", [(0.5, 0.42, 0.045)])),
    (
        form("yellow", ground="#e9e03c", light="#f6f08a", shade="#c9bd33", orange="#e8791c"),
        form("lime green", ground="#bfdd58", light="#ddf09a", shade="#9dba3f", orange="#e8791c"),
    ),
    body="#8a8560",
    backgrounds=(meadow, garden, sky, leaf, stone),
)

BIRDWING = Species(
    "birdwing",
    "with long velvet black fore wings and golden hind wings",
    Outline(44, -8, (0.94, 1.1, 0.98, 0.78, 0.62, 0.5), (0.04, -0.1), arch=0.14),
    Outline(14, -84, (0.48, 0.56, 0.6, 0.62, 0.6, 0.5), (0.03, -0.07), scallops=(5, 0.04)),
    (fill("ink"), ray("bright", 0.2, 0.13, 0.2, 0.92, -0.04), ray("bright", 0.84, 0.07, 0.2, 0.95), veins("ink", 0.01)),
    (fill("gold"), veins("ink", 0.012, 5), margin("ink", 0.05), margin_dots("ink", 6, 0.84, 0.04)),
    (
        form("green", ink="#12140f", bright="#3fbf4a", gold="#e8cf3a"),
        form("turquoise", ink="#10151a", bright="#35b8c4", gold="#e3c740"),
    ),
    girth=0.055,
    size=0.9,
    body="#3a2f14",
)
