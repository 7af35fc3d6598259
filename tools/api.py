"nbs/api.md, the list of every public name, out of the modules"
import ast
import importlib.util
from itertools import groupby

rooms = {'core': 'Foundations', 'camera': 'Foundations', 'rotation': 'Foundations', 'runs': 'Foundations', 'head': 'Head',
         'splat': 'Splats', 'clip': 'Clips', 'track': 'Tracking', 'generate': 'Generating', 'refine': 'Refining',
         'edit': 'Editing', 'drive': 'Driving', 'bench': 'Benchmarks', 'files': 'Use', 'using': 'Use', 'measuring': 'Use', 'fleet': 'Use', 'remote': 'Use',
         'demo': 'Use', 'cli': 'Use'}
head = """# Every name

The package's own names are {public}; each is also reached from its module. A line of the command line,
`spatialavatar0 VERB`, calls the function of that name in [`cli`](90_cli.ipynb). What follows lists all that the modules
define, with the first line of its documentation; a name leads to its signature, its arguments and its tests.
"""


def index(lib):
    "nbdev's own: for each module, name -> page and place on it"
    spec = importlib.util.spec_from_file_location('index', lib/'_modidx.py')
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    return module.d['syms']


def documented(path):
    "(name, first line of its docstring) of what a module defines for others, in its order"
    body = ast.parse(path.read_text(encoding='utf-8')).body
    public = next((ast.literal_eval(n.value) for n in body if isinstance(n, ast.Assign) and
                   getattr(n.targets[0], 'id', '') == '__all__'), [])
    for node in body:
        if getattr(node, 'name', '') not in public: continue
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != '_':
            patched = any(isinstance(d, ast.Name) and d.id == 'patch' for d in node.decorator_list)
            line = (ast.get_docstring(node) or '').split('\n')[0]
            if line and not patched: yield node.name, line


def rows(lib, module, names):
    "The lines of one module"
    path = lib/(module.split('.', 1)[1].replace('.', '/') + '.py')
    listed = [(name, line) for name, line in documented(path) if f'{module}.{name}' in names]
    if not listed: return
    page = names[f'{module}.{listed[0][0]}'][0].partition('#')[0]
    yield f"\n### [{module.split('.', 1)[1]}]({page})\n\n{ast.get_docstring(ast.parse(path.read_text()))}\n\n| name | what it is, or does |\n|---|---|"
    for name, line in listed:
        yield f"| [`{name}`]({names[f'{module}.{name}'][0]}) | {line.replace('|', chr(92) + '|')} |"


def public(lib):
    "Name -> module of the names in the package's `__init__`"
    body = ast.parse((lib/'__init__.py').read_text(encoding='utf-8')).body
    tables = {n.targets[0].id: n.value for n in body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Dict)}
    verbs = {name: place.split(':')[0] for name, place in ast.literal_eval(tables['_verbs']).items()}
    return ast.literal_eval(tables['_public']) | verbs


def api(top):
    "The text of nbs/api.md"
    lib = top/'spatialavatar0'
    found = {module: names for module, names in index(lib).items() if module.split('.')[1] in rooms}
    names = ', '.join(f"[`{name}`]({found[f'{lib.name}.{module}'][f'{lib.name}.{module}.{name}'][0]})"
                      for name, module in public(lib).items())
    lines, room = [head.format(public=names)], lambda module: rooms[module.split('.')[1]]
    for title, modules in groupby(sorted(found, key=lambda m: list(rooms).index(m.split('.')[1])), room):
        lines.append(f'\n## {title}')
        for module in modules: lines += rows(lib, module, found[module])
    return '\n'.join(lines) + '\n'
