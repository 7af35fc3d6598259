"How notebooks are written: CONTRIBUTING.md says why; the aims there are tighter than the limits here"
import ast
import json
import re
from statistics import median

import pytest
from cells import code, imported, imports, read
from project import nbs, notebooks, root


def each(paths): return pytest.mark.parametrize('nb', paths, ids=lambda p: str(p.relative_to(nbs)))


every = each(notebooks())
chapters = each([p for p in notebooks() if any(c.exported for c in code(p))])


@every
def test_first_cell_is_a_title_and_a_line(nb):
    "nbdev turns that cell into the page's head and drops all else that is in it"
    first = read(nb)[0].source.strip()
    assert re.fullmatch(r'# \S.*\n\n> \S.*', first), f'want "# Title", an empty line, "> one line": {first!r}'


@chapters
def test_module_has_the_notebooks_name(nb):
    folder, name = nb.relative_to(nbs).parent.parts, re.sub(r'^\d+[a-z]?_', '', nb.stem)
    assert code(nb)[0].source.strip() == f"#| default_exp {'.'.join([*folder, name])}"
    assert read(nb)[-1].source == '#| hide\nimport nbdev; nbdev.nbdev_export()'


@chapters
def test_budgets(nb):
    cells, exported = read(nb), [c for c in code(nb) if c.exported]
    work = [c for c in exported if not all(isinstance(n, imports) for n in c.statements)]
    lengths = [c.lines for c in work]
    over = {
        'more than 120 cells': len(cells) > 120,
        'more than 350 exported lines': sum(lengths) > 350,
        'exported cells of more than 15 lines, as the median': median(lengths) > 15,
        'fewer than 0.8 cells of text an exported cell': sum(c.kind == 'markdown' for c in cells) < .8*len(work),
        'fewer than 0.6 testing cells an exported cell': sum(c.tests for c in cells) < .6*len(work),
        **{f'more than 45 lines: {c}': len(c.source.splitlines()) > 46 for c in work},
    }
    assert not [what for what, is_over in over.items() if is_over]


@every
def test_imports_stand_alone(nb):
    "The documentation executes every cell that holds an import, whatever its flags: it may hold nothing else"
    for cell in code(nb):
        alone = [isinstance(node, imports) for node in cell.statements]
        inside = any(isinstance(node, imports) for node in ast.walk(cell.tree)) and not cell.exported
        assert all(alone) or not (any(alone) or inside), f'an import among other code: {cell}'


@every
def test_lines_are_short(nb):
    "So that a page never scrolls sideways"
    long = [line for c in code(nb) for line in c.source.splitlines() if len(line) > 110 and line[:2] != '#|']
    assert not long, 'over 110 characters (aim at 105)'


@every
def test_what_is_stored(nb):
    text = nb.read_text(encoding='utf-8')
    outputs = [o for c in code(nb) for o in c.outputs]
    words = re.sub(r'[\w+/=]{200,}', '', json.dumps(outputs))       # without pictures
    paths = set(re.findall(r'/(?:home|root|work|Users|tmp/ipykernel)\w*/[\w./-]+', words))
    size = len(text.encode())
    assert size <= 300_000, 'the file is larger than 300 kB'
    stored = {'widget': 'widgets' in json.loads(text)['metadata'] or 'jupyter.widget-view' in text,
              'error': any(o['output_type'] == 'error' for o in outputs)}
    assert not [what for what, is_stored in stored.items() if is_stored]
    assert not paths, 'paths of one machine in what is stored'


@every
def test_pictures_have_a_text(nb):
    "For those who do not see them"
    bare = [str(c) for c in code(nb) if not {'hide', 'fig-alt'} & c.directives.keys()
            and any(key.startswith('image/') for o in c.outputs for key in o.get('data', {}))]
    assert not bare, 'a picture without fig-alt'


floors = {'core': 0, 'camera': 0, 'rotation': 0, 'runs': 0, 'remote': 0, 'head': 1, 'splat': 2, 'clip': 3, 'track': 3,
          'generate': 4, 'refine': 4, 'edit': 4, 'drive': 5, 'bench': 6, 'demo': 7, 'files': 7, 'fleet': 7,
          'using': 7, 'measuring': 7, 'cli': 7}


@chapters
def test_imports_only_from_the_floors_under_it(nb):
    "And what stands on one floor may be used there, except that the three stages do not know one another"
    module = ['spatialavatar0', *code(nb)[0].source.split()[-1].split('.')]
    statements = [n for c in code(nb) for n in ast.walk(c.tree) if isinstance(n, imports)]
    names = [name.split('.') for n in statements for name in imported(n, module) if name.startswith('spatialavatar0.')]
    here = module[1]
    above = [there for _, there, *_ in names if there != here and
             (floors[there] > floors[here] or floors[there] == floors[here] == 4)]
    assert not above


def test_media_is_small():
    kinds = {'.png', '.jpg', '.jpeg', '.webp', '.gif', '.svg', '.mp4', '.webm', '.pdf', '.ply'}
    made = {'_proc', '_docs', 'build', 'dist', 'demo_out', 'out'}
    sizes = {p: p.stat().st_size for p in root.rglob('*') if p.suffix in kinds and
             not any(part[0] == '.' or part in made for part in p.relative_to(root).parts)}
    assert not [p for p, size in sizes.items() if size > 2_000_000]
    assert sum(sizes.values()) < 60_000_000
