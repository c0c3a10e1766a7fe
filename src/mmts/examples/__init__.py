"""Small generated data sets in the public formats, for `--tiny` runs and for tests: drawn pictures, real layouts."""

from mmts.examples.sets import draw_example as draw_example
