"A subject's own avatar: `refine(avatar, clip)` fits its Gaussians to the frames of a clip"
from spatialavatar0 import _callable

_callable(__name__)
