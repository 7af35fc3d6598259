"The project's frame: what is generated is in step, the import is light, what it needs is declared"
import ast
import configparser
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
import spatialavatar0
from cells import imported, imports
from project import lib, root

modules = sorted(p for p in lib.rglob('*.py') if p.name not in ('__init__.py', '_modidx.py'))
settings = configparser.ConfigParser(delimiters=['=']); settings.read(root/'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']
heavy = 'mediapipe', 'skimage', 'av', 'wandb', 'matplotlib', 'nbdev', 'IPython', 'ipykernel', 'ipywidgets', 'smplx', 'gsplat', \
    'transformers', 'accelerate', 'onnxruntime', 'anywidget', 'yaml', 'ray', 'filelock'


def python(code, *args):
    "What a fresh Python prints"
    done = subprocess.run([sys.executable, '-c', code, *args], cwd=root/'tests', capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def wanted():
    "Every requirement in settings.ini, of the library and of its extras"
    return [word for key in settings if key.endswith('requirements') for word in shlex.split(settings[key])]


def test_everything_generated_is_in_step():
    "Notebooks are clean; modules, README.md and nbs/nbdev.yml are what the notebooks and settings make of them"
    done = subprocess.run([sys.executable, root/'tools/sync.py', '--check'], capture_output=True, text=True)
    assert done.returncode == 0, f'`make sync` mends: {done.stdout}{done.stderr[-4000:]}'


def test_import_is_light():
    "The package's name alone imports nothing outside the standard library"
    got = python('import sys, spatialavatar0; print(*{name.split(".")[0] for name in sys.modules})').split()
    assert not {*heavy, 'torch', 'numpy', 'numba', 'kornia', 'PIL'} & set(got)


def test_modules_import_without_the_extras():
    "Whoever installed no extra can still import every module: what is heavy is imported where it is used"
    code = f"""
import sys, importlib
sys.modules.update(dict.fromkeys({heavy}))
for name in sys.argv[1:]: importlib.import_module(name)
"""
    python(code, *('.'.join(p.relative_to(root).with_suffix('').parts) for p in modules))


@pytest.mark.parametrize('name', spatialavatar0.__all__)
def test_public_name(name):
    "In `dir`, documented, and the same from anywhere"
    thing = getattr(spatialavatar0, name)
    assert name in dir(spatialavatar0) and inspect.getdoc(thing) and callable(thing)
    if inspect.ismodule(thing):
        module, function = spatialavatar0._verbs[name].split(':')
        function = getattr(importlib.import_module(f'spatialavatar0.{module}'), function)
        assert inspect.signature(thing) == inspect.signature(function)


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'spatialavatar0' has no attribute 'nonsense'"):
        spatialavatar0.nonsense


def test_package_files_hold_no_code():
    "An `__init__.py` is empty, unless its sub-package is a verb"
    verb = 'from spatialavatar0 import _callable\n\n_callable(__name__)\n'
    for p in lib.rglob('*/__init__.py'):
        if p.parent.name in spatialavatar0._verbs: assert p.read_text().endswith(verb)
        elif p.parent != lib: assert not p.read_text()
    assert not [p.parent for p in modules if not (p.parent/'__init__.py').exists()]


@pytest.mark.parametrize('path', modules, ids=lambda p: str(p.relative_to(lib)))
def test_module_is_for_every_python(path):
    "By its grammar; and each package that it imports is declared in settings.ini"
    tree = ast.parse(path.read_text(encoding='utf-8'), feature_version=(3, 10))
    found = {name.split('.')[0] for n in ast.walk(tree) if isinstance(n, imports) and not getattr(n, 'level', 0)
             for name in imported(n, [])}
    declared = {re.match(r'[\w.-]+', w)[0].lower().replace('_', '-') for w in wanted()}
    known = packages_distributions()
    missing = {name for name in found - {'spatialavatar0', *sys.stdlib_module_names}
               if not {d.lower().replace('_', '-') for d in known.get(name, [name])} & declared}
    assert not missing, 'imported but not declared'


def test_pins_hold_every_requirement():
    "And what is declared as a range is pinned in constraints.txt"
    pins = {re.match(r'[\w.-]+', line)[0] for line in (root/'constraints.txt').read_text().splitlines() if '==' in line}
    assert {re.match(r'[\w.-]+', w)[0].lower() for w in wanted()} <= pins
