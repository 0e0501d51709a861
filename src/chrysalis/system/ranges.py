"""Types of numbers with their range, for parameters that a configuration sets; command/values.py checks them."""

from typing import Annotated

from annotated_types import Interval

LARGEST = 2**31 - 1  # of any number: beyond it a program would run for hours or out of memory

Positive = Annotated[int, Interval(ge=1, le=LARGEST)]
NotNegative = Annotated[int, Interval(ge=0, le=LARGEST)]
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]
Pixels = Annotated[int, Interval(ge=8, le=4096)]
Channels = Annotated[int, Interval(ge=1, le=16_384)]
Layers = Annotated[int, Interval(ge=1, le=64)]
TrainTimesteps = Annotated[int, Interval(ge=2, le=100_000)]
Timesteps = Annotated[int, Interval(ge=1, le=1000)]
Steps = Annotated[int, Interval(ge=1, le=100_000)]
Repetitions = Annotated[int, Interval(ge=1, le=1000)]
Samples = Annotated[int, Interval(ge=1, le=1_000_000)]
Drawn = Annotated[int, Interval(ge=2, le=100_000_000)]
Shown = Annotated[int, Interval(ge=1, le=1000)]
Nearest = Annotated[int, Interval(ge=1, le=64)]
Columns = Annotated[int, Interval(ge=2, le=1000)]
Frames = Annotated[int, Interval(ge=2, le=10_000)]
Smoothing = Annotated[int, Interval(ge=0, le=1000)]
Workers = Annotated[int, Interval(ge=0, le=256)]
Processes = Annotated[int, Interval(ge=-1, le=1024)]
Endless = Annotated[int, Interval(ge=-1, le=LARGEST)]

Fraction = Annotated[float, Interval(ge=0, le=1)]
FractionBelow1 = Annotated[float, Interval(ge=0, lt=1)]
PositiveFraction = Annotated[float, Interval(gt=0, le=1)]
InsideFraction = Annotated[float, Interval(gt=0, lt=1)]
PositiveNumber = Annotated[float, Interval(gt=0)]
NotNegativeNumber = Annotated[float, Interval(ge=0)]
LearningRate = Annotated[float, Interval(gt=0, le=1000)]
BlendRatio = Annotated[float, Interval(ge=-1, le=2)]
Seconds = Annotated[float, Interval(ge=0.1, le=600)]
