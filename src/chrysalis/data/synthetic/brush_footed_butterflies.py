"""Brush-footed butterflies (Nymphalidae), modelled on living species; wings.py paints them."""

from chrysalis.data.synthetic.backgrounds import garden, leaf, meadow, sky
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
    window,
)

MONARCH = Species(
    "monarch",
    "with black veins and white dots on a black margin",
    Outline(56, -14, (0.86, 1.0, 0.86, 0.75, 0.69, 0.66, 0.56), (0.04, -0.1), arch=0.12),
    Outline(26, -88, (0.52, 0.66, 0.7, 0.7, 0.7, 0.66, 0.5), (0.03, -0.07)),
    (
        fill("ground"),
        glow("deep", 0.0, 0.5, 0.35),
        tip("ink", 0.72, 1.3),
        veins("ink", 0.013),
        margin("ink", 0.085),
        costa("ink", 0.025),
        margin_dots("white", 9, 0.945, 0.015),
        dots("white", [(0.8, 0.1, 0.03), (0.74, 0.18, 0.025), (0.7, 0.06, 0.02)]),
    ),
    (
        fill("ground"),
        glow("deep", 0.0, 0.5, 0.3),
        veins("ink", 0.012),
        margin("ink", 0.085),
        margin_dots("white", 9, 0.945, 0.014),
    ),
    (
        form("orange", ground="#e0822a", deep="#c45a14", ink="#1a1210", white="#fbf6ea"),
        form("amber", ground="#e8a94a", deep="#d98a2a", ink="#20160f", white="#fbf6ea"),
    ),
)

MORPHO = Species(
    "morpho",
    "with shining wings in a dark rim",
    Outline(52, -20, (0.84, 0.98, 0.9, 0.84, 0.8, 0.76, 0.64), (0.04, -0.1), arch=0.1),
    Outline(24, -86, (0.55, 0.72, 0.78, 0.8, 0.78, 0.74, 0.5), (0.03, -0.07), scallops=(6, 0.03)),
    (
        fill("ground"),
        glow("light", 0.35, 0.75, 0.7),
        half("deep", 0.4, 1.1, 0.5),
        tip("ink", 0.78, 0.9, 0.1),
        margin("ink", 0.08),
        costa("ink", 0.03),
        margin_dots("white", 7, 0.955, 0.012),
    ),
    (
        fill("ground"),
        glow("light", 0.3, 0.7, 0.6),
        half("deep", 0.5, 1.1, 0.6),
        margin("ink", 0.09),
        margin_dots("white", 8, 0.95, 0.01),
    ),
    (
        form("blue", ground="#1f5fd0", light="#58b2ff", deep="#123a92", ink="#0e0d14", white="#e8eefc"),
        form("violet", ground="#5a3fc0", light="#a48cff", deep="#34207e", ink="#100c16", white="#efe8fc"),
    ),
    body="#1b1a20",
)

PEACOCK = Species(
    "peacock",
    "with four large eyespots",
    Outline(52, -18, (0.82, 0.96, 0.86, 0.8, 0.8, 0.72, 0.62), (0.04, -0.1), arch=0.08, scallops=(4, 0.05)),
    Outline(26, -86, (0.55, 0.7, 0.72, 0.7, 0.72, 0.66, 0.5), (0.03, -0.07), scallops=(6, 0.05)),
    (
        fill("ground"),
        glow("deep", 0.5, 0.1, 0.4),
        margin("brown", 0.06),
        costa("ink", 0.03),
        dots("ink", [(0.45, 0.1, 0.06), (0.62, 0.12, 0.05)]),
        dots("cream", [(0.54, 0.09, 0.035)]),
        eye(0.77, 0.2, 0.15, ("cream", "ink", "violet", "rust")),
        dots("cream", [(0.72, 0.48, 0.02), (0.7, 0.62, 0.018)]),
    ),
    (
        fill("ground"),
        half("brown", 0.4, 1.0, 0.8),
        margin("brown", 0.07),
        eye(0.66, 0.56, 0.17, ("cream", "ink", "ink", "blue", "blue")),
    ),
    (
        form(
            "red",
            ground="#b5432a",
            deep="#7c2a1c",
            brown="#5a4334",
            ink="#17110f",
            cream="#f1e2b4",
            violet="#7e6fc0",
            rust="#8a2f20",
            blue="#6a8fe0",
        ),
    ),
)

LONGWING = Species(
    "longwing",
    "with long narrow striped wings",
    Outline(36, -12, (0.9, 1.06, 1.02, 0.86, 0.66, 0.5), (0.04, -0.08), arch=0.14),
    Outline(16, -72, (0.66, 0.72, 0.66, 0.56, 0.46, 0.4), (0.03, -0.07)),
    (
        fill("ink"),
        ray("stripe", 0.72, 0.075, 0.12, 0.66, -0.06),
        ray("stripe", 0.22, 0.08, 0.45, 0.72, 0.12),
        band("stripe", 0.84, 0.05, -0.05),
    ),
    (fill("ink"), ray("stripe", 0.22, 0.085, 0.08, 0.86), margin_dots("stripe", 9, 0.82, 0.018)),
    (
        form("black and yellow", ink="#15130f", stripe="#f2e27a"),
        form("black and white", ink="#15130f", stripe="#f4f1e4"),
        form("black and red", ink="#15100f", stripe="#dd3a2c"),
    ),
    girth=0.035,
    size=0.92,
)

GLASSWING = Species(
    "glasswing",
    "with clear glassy wings in dark frames",
    Outline(40, -14, (0.86, 1.02, 0.94, 0.8, 0.66, 0.52), (0.04, -0.08), arch=0.12),
    Outline(18, -80, (0.6, 0.7, 0.68, 0.62, 0.54, 0.44), (0.03, -0.07)),
    (
        fill("glass"),
        band("milk", 0.74, 0.08, -0.1),
        veins("ink", 0.012),
        margin("frame", 0.09),
        margin("ink", 0.035),
        costa("ink", 0.035),
        window(0.62),
    ),
    (fill("glass"), veins("ink", 0.012), margin("frame", 0.09), margin("ink", 0.04), window(0.62)),
    (
        form("brown-rimmed", glass="#dfe9ea", milk="#ffffff", ink="#221712", frame="#8c4a22"),
        form("orange-rimmed", glass="#e6ece6", milk="#ffffff", ink="#2a1a10", frame="#d8701f"),
    ),
    girth=0.035,
    backgrounds=(meadow, garden, leaf, sky),
)

ADMIRAL = Species(
    "admiral",
    "with a bright band and white spots on dark wings",
    Outline(52, -16, (0.84, 0.98, 0.86, 0.78, 0.76, 0.7, 0.58), (0.04, -0.1), arch=0.1, scallops=(5, 0.03)),
    Outline(24, -86, (0.54, 0.7, 0.72, 0.7, 0.68, 0.64, 0.5), (0.03, -0.07), scallops=(6, 0.04)),
    (
        fill("ground"),
        glow("brown", 0.5, 0.0, 0.7),
        band("bright", 0.5, 0.13, 0.12, 0.1),
        dots("white", [(0.74, 0.1, 0.045), (0.84, 0.2, 0.026), (0.86, 0.3, 0.022), (0.84, 0.4, 0.02)]),
    ),
    (fill("ground"), glow("brown", 0.6, 0.0, 0.7), margin("bright", 0.15), margin_dots("ground", 6, 0.88, 0.022)),
    (
        form("orange-banded", ground="#1d1512", brown="#4a3322", bright="#e2571f", white="#fbf8f0"),
        form("white-banded", ground="#1a1718", brown="#3a3436", bright="#eee9dc", white="#fbf8f0"),
    ),
)
