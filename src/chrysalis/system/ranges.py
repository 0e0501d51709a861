"""Types of numbers with their range, for parameters that a configuration sets; command/values.py checks them."""

from typing import Annotated

from annotated_types import Interval

LARGEST = (
    2**31 - 1
)  # the largest number that a key takes, except seeds: beyond it a program would run for hours or run out of memory

Positive = Annotated[int, Interval(ge=1, le=LARGEST)]
NotNegative = Annotated[int, Interval(ge=0, le=LARGEST)]
From1To64 = Annotated[int, Interval(ge=1, le=64)]
From1To1000 = Annotated[int, Interval(ge=1, le=1000)]
From1To10000 = Annotated[int, Interval(ge=1, le=10_000)]
UpTo1000 = Annotated[int, Interval(ge=0, le=1000)]
UpTo10000 = Annotated[int, Interval(ge=0, le=10_000)]
UpTo1000000 = Annotated[int, Interval(ge=0, le=1_000_000)]
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]
Pixels = Annotated[int, Interval(ge=8, le=4096)]
FeaturePixels = Annotated[int, Interval(ge=8, le=2048)]
GridSize = Annotated[int, Interval(ge=1, le=4096)]
Heads = Annotated[int, Interval(ge=1, le=1024)]
Channels = Annotated[int, Interval(ge=1, le=16_384)]
TrainTimesteps = Annotated[int, Interval(ge=2, le=100_000)]
Steps = Annotated[int, Interval(ge=1, le=100_000)]
Samples = Annotated[int, Interval(ge=1, le=1_000_000)]
DrawnImages = Annotated[int, Interval(ge=2, le=100_000_000)]
Columns = Annotated[int, Interval(ge=2, le=1000)]
Frames = Annotated[int, Interval(ge=2, le=10_000)]
Workers = Annotated[int, Interval(ge=0, le=256)]
Processes = Annotated[int, Interval(ge=-1, le=1024)]
Limit = Annotated[int, Interval(ge=-1, le=LARGEST)]  # -1: none

Fraction = Annotated[float, Interval(ge=0, le=1)]
FractionBelow1 = Annotated[float, Interval(ge=0, lt=1)]
PositiveFraction = Annotated[float, Interval(gt=0, le=1)]
InsideFraction = Annotated[float, Interval(gt=0, lt=1)]
PositiveNumber = Annotated[float, Interval(gt=0, le=LARGEST)]
NotNegativeNumber = Annotated[float, Interval(ge=0, le=LARGEST)]
NoiseOffset = Annotated[float, Interval(ge=0, le=100)]
StandardErrors = Annotated[float, Interval(ge=0, le=10)]
LearningRateMultiplier = Annotated[float, Interval(gt=0, le=1_000_000)]
LearningRate = Annotated[float, Interval(gt=0, le=1000)]
BlendRatio = Annotated[float, Interval(ge=-1, le=2)]
Seconds = Annotated[float, Interval(ge=0.1, le=600)]
