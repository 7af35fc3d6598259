"""One to four portraits to a drivable 4D head avatar of Gaussians bound to a head mesh

The public names below are imported when they are first used, so that `import spatialavatar0` costs nothing.
Everything else is reached through its module, say `from spatialavatar0.splat.binding import bind`."""
__version__ = "0.1.0"

import importlib, sys
from types import ModuleType

_public = {  # name -> module that has it
    'Avatar': 'splat.avatar',
    'Camera': 'camera',
    'Clip': 'clip.clip',
    'HeadModel': 'head.model',
    'Motion': 'drive.motion',
    'render': 'splat.render',
}
_verbs = {  # sub-package that can be called -> module and function that do its work
    'track': 'track.track:track',
    'generate': 'generate.choose:generate',
    'refine': 'refine.refine:refine',
}
__all__ = [*_public, *_verbs]


def __getattr__(name):
    if name in _public: value = getattr(importlib.import_module(f'{__name__}.{_public[name]}'), name)
    elif name in _verbs: value = importlib.import_module(f'{__name__}.{name}')
    else: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    globals()[name] = value
    return value


def __dir__(): return sorted({*globals(), *_public, *_verbs})


class _Verb(ModuleType):
    "A sub-package that is called as the function it is named after: `track(...)` beside `track.landmarks`"
    @property
    def _function(self):
        module, function = _verbs[self.__name__.rpartition('.')[2]].split(':')
        return getattr(importlib.import_module(f'{__name__}.{module}'), function)

    @property
    def __signature__(self): return importlib.import_module('inspect').signature(self._function)

    def __call__(self, *args, **kwargs): return self._function(*args, **kwargs)


def _callable(package):
    "Let `package` be called; the one line in the `__init__.py` of a sub-package in `_verbs`"
    sys.modules[package].__class__ = _Verb
