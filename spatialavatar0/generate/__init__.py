"An avatar from a few portraits, without optimization: `generate(clip)`"
from spatialavatar0 import _callable

_callable(__name__)
