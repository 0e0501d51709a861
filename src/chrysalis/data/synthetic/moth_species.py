"""The six species of the drawn moths, modeled on real ones, in the order of their labels; see butterfly_species."""

from functools import partial

from chrysalis.data.synthetic.backgrounds import bark, dusk, leaf, lichen, paper, stone
from chrysalis.data.synthetic.layers import band, costa, dots, eye, fill, gradient, margin, ray, row, veins, waves
from chrysalis.data.synthetic.species import Species, form
from chrysalis.data.synthetic.wings import Outline

moth = partial(Species, feathered=True, backgrounds=(bark, dusk, lichen, stone, paper, leaf))

MOTHS = (
    moth("luna moth", "with long curved tails and small eyespots",
        Outline(46, -14, (0.86, 1.0, 0.84, 0.74, 0.72, 0.66, 0.56), (0.04, -0.1), arch=0.16),
        Outline(12, -92, (0.46, 0.6, 0.62, 0.58, 0.56, 0.5, 0.44), tail=(0.86, 0.42, 0.09)),
        (gradient("light", "u", 0.7, 0.1, 0.6), veins("shade", 0.006), costa("rim", 0.035), margin("rim", 0.016),
         eye(0.58, 0.3, 0.055, ("rim", "cream", "shade"), False)),
        (gradient("light", "u", 0.7, 0.1, 0.6), margin("rim", 0.014),
         eye(0.6, 0.36, 0.05, ("rim", "cream", "shade"), False)),
        (form("pale green", ground="#b5d8a0", light="#dcecc8", shade="#94b884", rim="#8a4a5c", cream="#f2e6c0"),
         form("pale yellow", ground="#e3d98a", light="#f3eec4", shade="#c4b868", rim="#96603e", cream="#f8f0d2")),
        body="#e8e2d0", girth=0.06),

    moth("emperor moth", "with four eyespots and wavy pale margins",
        Outline(48, -18, (0.84, 0.98, 0.88, 0.8, 0.78, 0.74, 0.62), (0.04, -0.1), arch=0.1),
        Outline(24, -86, (0.54, 0.7, 0.74, 0.72, 0.7, 0.66, 0.5)),
        (gradient("dark", "texture", -0.3, 0.7, 0.35), gradient("pale", "u", 0.2, 0.5, 0.6),
         waves("dark", (0.34, 0.74), 0.03, 0.025), margin("pale", 0.07),
         eye(0.52, 0.36, 0.11, ("pale", "dark", "gold", "ink"))),
        (fill("second"), gradient("dark", "texture", -0.3, 0.7, 0.25), waves("dark", (0.74,), 0.035, 0.02),
         margin("pale", 0.07), eye(0.52, 0.42, 0.1, ("pale", "dark", "gold", "ink"))),
        (form("grey", ground="#9c938c", second="#b0a698", dark="#4d4440", pale="#ded6c8", gold="#c98f3c",
              ink="#17130f"),
         form("tawny", ground="#b58a58", second="#cd9550", dark="#5e3d24", pale="#ead7b0", gold="#d5a53f",
              ink="#1a120c")),
        body="#7d7267", girth=0.07),

    moth("hawk moth", "with narrow swept wings and a thick banded body",
        Outline(26, -20, (0.9, 1.08, 0.92, 0.66, 0.5, 0.42), (0.05, -0.1), arch=0.06),
        Outline(-8, -72, (0.5, 0.56, 0.52, 0.46, 0.4)),
        (gradient("dark", "texture", -0.3, 0.7, 0.4), ray("pale", 0.42, 0.06, 0.15, 0.98, 0.05),
         ray("dark", 0.6, 0.05, 0.1, 0.9, 0.05), waves("dark", (0.55, 0.82), 0.025, 0.02, 3), costa("dark", 0.04)),
        (fill("bright"), gradient("dark", "u", 0.3, 0.0), band("dark", 0.86, 0.09), band("dark", 0.5, 0.05)),
        (form("olive and pink", ground="#8b8a52", dark="#4e4c30", pale="#d7b9b0", bright="#d9738f"),
         form("grey and rose", ground="#8a837f", dark="#433c3c", pale="#c6bdb6", bright="#c9707c")),
        body="#6f6046", girth=0.085),

    moth("tiger moth", "with dark blotched fore wings and spotted bright hind wings",
        Outline(40, -24, (0.82, 0.94, 0.86, 0.78, 0.72, 0.66, 0.54), (0.05, -0.1), arch=0.08),
        Outline(12, -84, (0.52, 0.64, 0.66, 0.64, 0.6, 0.52)),
        (dots("dark", [(0.22, 0.5, 0.1), (0.46, 0.22, 0.1), (0.5, 0.68, 0.11), (0.74, 0.3, 0.1),
                       (0.8, 0.62, 0.11), (0.88, 0.06, 0.1)], 0.35),
         veins("ground", 0.01, 4)),
        (fill("bright"),
         dots("dark", [(0.5, 0.25, 0.07), (0.8, 0.3, 0.075), (0.8, 0.6, 0.075), (0.5, 0.62, 0.06),
                       (0.82, 0.84, 0.06)], 0.35)),
        (form("red", ground="#f0e4c8", dark="#3f2a20", bright="#d5502c"),
         form("yellow", ground="#f4ecd4", dark="#2f2622", bright="#e5b23a")),
        body="#a5512c", girth=0.075),

    moth("geometer moth", "with wavy lines across thin wings",
        Outline(44, -20, (0.82, 0.98, 0.88, 0.8, 0.76, 0.72, 0.6), (0.03, -0.08), arch=0.06),
        Outline(20, -88, (0.56, 0.72, 0.74, 0.72, 0.72, 0.66, 0.52), scallops=(5, 0.05)),
        (gradient("dust", "texture", -0.3, 0.7, 0.5), waves("line", (0.28, 0.5, 0.58, 0.8, 0.88), 0.02, 0.025, 5),
         row("line", 7, 0.96, 0.012)),
        (gradient("dust", "texture", -0.3, 0.7, 0.5), waves("line", (0.32, 0.54, 0.62, 0.84), 0.02, 0.025, 5),
         row("line", 7, 0.96, 0.012)),
        (form("white", ground="#eae6da", dust="#cbc5b4", line="#6d675c"),
         form("sandy", ground="#dcc59c", dust="#c2a679", line="#7c5d3a"),
         form("emerald", ground="#7fb894", dust="#a3cdb0", line="#e6f0de")),
        body="#b8ac98", girth=0.038),

    moth("atlas moth", "with very broad wings, clear windows and hooked tips",
        Outline(54, -16, (0.84, 1.08, 0.9, 0.74, 0.72, 0.72, 0.6), (0.04, -0.1), arch=0.26),
        Outline(26, -86, (0.56, 0.72, 0.76, 0.74, 0.72, 0.66, 0.5)),
        (gradient("dark", "v", 0.9, 0.2, 0.5), band("dark", 0.36, 0.06, 0.05), band("pale", 0.41, 0.025, 0.05),
         waves("pale", (0.72,), 0.03, 0.02, 4), gradient("sand", "u", 0.78, 0.95),
         waves("dark", (0.93,), 0.012, 0.015, 7), eye(0.56, 0.4, 0.075, ("dark", "pale", "pale"), False)),
        (gradient("dark", "u", 0.4, 0.0, 0.6), waves("pale", (0.72,), 0.03, 0.02, 4), gradient("sand", "u", 0.78, 0.95),
         row("dark", 7, 0.9, 0.018), eye(0.5, 0.44, 0.07, ("dark", "pale", "pale"), False)),
        (form("rust", ground="#a8522a", dark="#4e2416", pale="#f0e0c4", sand="#d2a45e"),
         form("chestnut", ground="#7e4a34", dark="#3a221a", pale="#e8d8c0", sand="#b98f62")),
        body="#8f4a2a", size=0.92, girth=0.06),
)  # fmt: skip
