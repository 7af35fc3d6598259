"A head found and followed in photographs: `track('me.jpg')`"
from spatialavatar0 import _callable

_callable(__name__)
