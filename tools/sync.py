"""Bring everything that is generated in step with the notebooks, or with --check only say what is not.

Notebooks are cleaned, the library is exported anew (so that a module whose notebook is gone goes too), README.md is
written from nbs/index.ipynb, nbs/nbdev.yml from settings.ini, nbs/api.md from the modules, nbs/sidebar.yml from the
list of pages. All of it happens in a copy; then what differs is copied back. With --check nothing is, and the exit status is 1 if anything
differs."""
import os
import sys
import tempfile
from pathlib import Path

import yaml

import project

book = [  # the site's sidebar: files, and (title, what is in it); what an earlier line took is not taken again
    'index.ipynb', 'tutorials/01_*.ipynb',
    ('The method', [
        ('Foundations', ['0*.ipynb']), ('Head', ['head/*.ipynb']), ('Splats', ['splat/*.ipynb']),
        ('Clips', ['clip/*.ipynb']), ('Tracking', ['track/*.ipynb']), ('Generating', ['generate/*.ipynb']),
        ('Refining', ['refine/*.ipynb']), ('Editing', ['edit/*.ipynb']), ('Driving', ['drive/*.ipynb'])]),
    ('Tutorials', ['tutorials/*.ipynb']),
    ('Explanations', ['explanations/*.ipynb']),
    ('Reference', ['api.md', '[89]*.ipynb', 'CHANGELOG.md']),
    ('Data and model cards', ['data_cards/*.md']),
    ('Benchmarks', ['bench/*.ipynb'])]


def sidebar(nbs):
    "The contents of the site's sidebar, in the order in which pages are to be read"
    left = {p.relative_to(nbs): None for p in [*project.notebooks(nbs), *project.pages(nbs)]}

    def taken(pattern):
        found = [p for p in left if p.match(pattern) and len(p.parts) == pattern.count('/') + 1]
        for p in found: left.pop(p)
        return [str(p) for p in found]

    def contents(entries):
        for entry in entries:
            if isinstance(entry, str): yield from taken(entry)
            elif inside := [*contents(entry[1])]: yield {'section': entry[0], 'contents': inside}
    tree = [*contents(book)]
    if left: raise SystemExit(f'no section of tools/sync.py takes {sorted(map(str, left))}')
    return tree


def regenerate(top):
    "Clean, export, and write what is generated, in the project at `top`"
    os.chdir(top); os.environ.pop('IN_TEST', None)
    sys.path.insert(0, str(top))                     # names in backticks link through this copy's index
    from nbdev.clean import nbdev_clean
    from nbdev.doclinks import nbdev_export
    from nbdev.quarto import refresh_quarto_yml
    from api import api
    from readme import readme
    for module in (top/'spatialavatar0').rglob('*.py'):
        if module.name != '__init__.py': module.unlink()
    nbdev_clean.__wrapped__()
    nbdev_export.__wrapped__()
    refresh_quarto_yml()
    (top/'nbs/api.md').write_text(api(top), encoding='utf-8')
    tree = {'website': {'sidebar': {'contents': sidebar(top/'nbs')}}}
    (top/'nbs/sidebar.yml').write_text(yaml.safe_dump(tree, sort_keys=False), encoding='utf-8')
    (top/'README.md').write_text(readme(top/'nbs/index.ipynb'), encoding='utf-8')


def files(top):
    "The contents of everything generated under `top`, by path"
    for name in project.generated:
        for p in sorted((top/name).rglob('*') if (top/name).is_dir() else [top/name]):
            hidden = any(part[0] == '.' or part == '__pycache__' for part in p.relative_to(top).parts)
            if p.is_file() and not hidden: yield p.relative_to(top), p.read_bytes()


def main(check):
    with tempfile.TemporaryDirectory() as folder:
        copy = project.copy_to(Path(folder).resolve())
        before = dict(files(copy)); regenerate(copy); after = dict(files(copy))
        os.chdir(project.root)
        changed = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))
        for path in changed:
            print(path, '' if path in after else '(stale: no notebook exports it)')
            if check: continue
            if path not in after: (project.root/path).unlink()
            else:
                (project.root/path).parent.mkdir(parents=True, exist_ok=True)
                (project.root/path).write_bytes(after[path])
    return 1 if check and changed else 0


if __name__ == '__main__': sys.exit(main('--check' in sys.argv[1:]))
