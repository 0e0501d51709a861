"""The ten species of the drawn butterflies, in the order of their labels."""

from chrysalis.data.synthetic.brush_footed_butterflies import ADMIRAL, GLASSWING, LONGWING, MONARCH, MORPHO, PEACOCK
from chrysalis.data.synthetic.swallowtails_and_whites import BIRDWING, BRIMSTONE, SWALLOWTAIL, WHITE

BUTTERFLIES = (MONARCH, MORPHO, SWALLOWTAIL, PEACOCK, LONGWING, WHITE, BRIMSTONE, GLASSWING, ADMIRAL, BIRDWING)
