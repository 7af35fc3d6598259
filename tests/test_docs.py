"The documentation: its pages without quarto, and the list of them"
import os
import re
import subprocess
import sys

import nbformat
import yaml
from docs_check import plain, sidebar
from nbconvert import HTMLExporter
from project import nbs, notebooks, pages, root


def test_pages():
    "Every page can be made, and nothing on it leads nowhere"
    done = subprocess.run([sys.executable, root/'tools/docs_check.py'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_every_page_is_in_the_sidebar():
    "Once; and every data card, and the list of changes, is a page"
    listed = [file for _, file in sidebar(nbs) if file]
    assert sorted(listed) == sorted(str(p.relative_to(nbs)) for p in [*notebooks(), *pages()]), '`make sync` lists them'
    for path in [root/'CHANGELOG.md', *(root/'data_cards').glob('*.md')]:
        link = nbs/path.relative_to(root)
        assert link.resolve() == path, f'ln -s {os.path.relpath(path, link.parent)} {link.relative_to(root)}'


def test_the_order_of_the_book():
    order = 'The method', 'Tutorials', 'Explanations', 'Reference', 'Data and model cards', 'Benchmarks'
    titles = [title for title, _ in sidebar(nbs) if title in order]
    assert titles == list(order) and next(sidebar(nbs)) == (None, 'index.ipynb')
    assert (nbs/'_quarto.yml').resolve() == root/'_quarto.yml'


def test_code_that_is_not_to_be_seen_is_not():
    "`echo: false` leaves a figure without the code that drew it, `include: false` neither"
    cell = nbformat.v4.new_code_cell
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_raw_cell('---\ntitle: t\ndescription: d\n---'), cell('seen = 1'),
                                         cell('#| echo: false\n#| fig-alt: a text\ndrawn = 2'), cell('#| include: false\ngone = 3')])
    done = plain(nb)[0]
    page = HTMLExporter(template_name='basic').from_notebook_node(done)[0]
    assert done.cells[2].metadata.alt == 'a text'
    assert 'seen' in page and 'drawn' not in page and 'gone' not in page


def test_workflows_pin_what_they_run():
    for path in (root/'.github/workflows').glob('*.yml'):
        jobs = yaml.safe_load(path.read_text())['jobs'].values()
        used = [step['uses'] for job in jobs for step in job['steps'] if 'uses' in step]
        assert used and all(re.fullmatch(r'[\w./-]+@[0-9a-f]{40}', action) for action in used), path.name
