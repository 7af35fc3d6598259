"""The pages of the documentation without quarto: python tools/docs_check.py [FOLDER]

nbdev's own processing is what quarto would be given: it runs exported cells and imports, writes the signatures with
their documented arguments, and links names in backticks. Only the last step is other than on the site: nbconvert
makes the HTML, so the look is plainer. What comes out is checked: a link or a picture that leads nowhere, a heading
that a link names and the page lacks, a reference left unresolved, a picture without a text in its place.
The pages are written to FOLDER, if one is given; the exit status is 1 if anything is wrong."""
import html
import os
import pkgutil
import re
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import yaml
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

import project

shell = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 78rem; padding: 1rem; display: flex; gap: 2rem }}
nav {{ flex: 0 0 11rem; font-size: .9rem; position: sticky; top: 0; max-height: 100vh; overflow-y: auto }}
nav b {{ display: block; margin-top: .8rem }} nav a {{ display: block }}
main {{ min-width: 0; flex: 1 }} img {{ max-width: 100%; height: auto }} pre {{ overflow-x: auto; padding: .6rem; font-size: .82rem }}
a {{ color: #1c5d99; text-decoration: none }} a:hover, p a {{ text-decoration: underline }} h1, p code, li code {{ overflow-wrap: anywhere }}
h1, h2, h3 {{ line-height: 1.25 }} blockquote {{ margin: 0 0 1.5rem; color: #666; font-size: 1.1rem }}
.highlight pre {{ background: #f5f5f5 }} .anchor-link, .to-contents {{ display: none }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
td, th {{ padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e5e5e5 }}
@media (max-width: 50rem) {{
  body {{ flex-direction: column-reverse; gap: 1rem }} nav {{ position: static; max-height: none; columns: 2 }}
  h1 {{ font-size: 1.6rem }} .to-contents {{ display: block }}
}}
</style><script>MathJax = {{tex: {{inlineMath: [['$', '$']]}}}}</script>
<script async src="https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-mml-chtml.js"></script></head>
<body><nav id="contents">{nav}</nav>
<main><a class="to-contents" href="#contents">Contents</a>{body}</main></body></html>
"""


def plain(nb):
    "A processed notebook as nbconvert wants it, without front matter, directives and hidden code; and its front matter"
    front = yaml.safe_load(nb.cells[0].source.strip('-\n'))
    cells = [nbformat.v4.new_markdown_cell(f"# {front['title']}\n\n> {front['description']}")]
    for cell in nb.cells[1:]:
        if cell.cell_type == 'code':
            said = dict(re.findall(r'^#\|\s*([\w-]+):[ ]*(.*)$', cell.source, flags=re.M))
            if said.get('include') == 'false': continue
            cell.metadata = nbformat.from_dict({'transient': {'remove_source': said.get('echo') == 'false'}})
            if 'fig-alt' in said: cell.metadata['alt'] = said['fig-alt'].strip('"\'')
            cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
        elif cell.cell_type == 'markdown': cell.source = re.sub(r'^:::.*$', '', cell.source, flags=re.M)
        cells.append(cell)
    return nbformat.from_dict({**nb, 'cells': cells, 'metadata': {'language_info': {'name': 'python'}}}), front


def written(path):
    "A page of Markdown as a processed notebook, and its front matter"
    text = path.read_text(encoding='utf-8')
    title = re.match(r'# (.+)', text)[1]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), \
        {'title': title, 'output-file': f'{path.stem}.html'}


def sidebar(nbs, entries=None):
    "The sections and pages of the sidebar, one after the other, as (title, None) and (None, file)"
    for entry in entries or yaml.safe_load((nbs/'sidebar.yml').read_text())['website']['sidebar']['contents']:
        if isinstance(entry, str): yield None, entry
        else: yield entry['section'], None; yield from sidebar(nbs, entry['contents'])


class Site:
    "Pages by their path, and what is wrong with them"
    def __init__(self, top):
        self.top, self.folder = top, top/'_proc'
        settings = yaml.safe_load((top/'nbs/nbdev.yml').read_text())['website']
        self.url, self.code = settings['site-url'] + '/', f"{settings['repo-url']}/blob/{settings['repo-branch']}/"
        self.exporter = HTMLExporter(template_name='basic', exclude_input_prompt=True, exclude_output_prompt=True)
        self.page_of, self.titles, self.pages, self.headings = {}, {}, {}, {}
        for path in [*project.notebooks(self.folder), *project.pages(self.folder)]: self.render(path)

    def render(self, path):
        nb, front = plain(nbformat.read(path, 4)) if path.suffix == '.ipynb' else written(path)
        page = path.with_name(front['output-file'])
        self.page_of[path], self.titles[page] = page, front['title']
        text = re.sub(r'\{target=[^}]*\}', '', self.exporter.from_notebook_node(nb)[0])  # quarto's, after links to code
        self.pages[page] = BeautifulSoup(text, 'html.parser')
        self.headings[page] = {tag['id'].lower() for tag in self.pages[page].find_all(id=True)}

    def write(self, out):
        "The pages, each with the sidebar, and the files beside the notebooks"
        for page, body in self.pages.items():
            nav = '\n'.join(f'<b>{title}</b>' if title else self.entry(page, self.page_of.get(self.folder/file))
                            for title, file in sidebar(self.top/'nbs'))
            text = shell.format(title=html.escape(self.titles[page]), nav=nav, body=body)
            page.write_text(text.replace(self.url, os.path.relpath(self.folder, page.parent) + '/'), encoding='utf-8')
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.folder, out, ignore=shutil.ignore_patterns('*.ipynb', '*.yml', '*.md'))

    def entry(self, page, to):
        "A line of the sidebar; `make sync` brings one up to date that names notebooks which are gone"
        return f'<a href="{os.path.relpath(to, page.parent)}">{self.titles[to]}</a>' if to else ''

    def leads_nowhere(self, page, link):
        "Why a link on a page does, or nothing; other people's sites are not asked"
        if link.startswith(self.code): return self.missing(self.top/urlsplit(link[len(self.code):]).path)
        here, link = (self.folder, link[len(self.url):]) if link.startswith(self.url) else (page.parent, link)
        parts = urlsplit(link)
        if parts.scheme: return 'a file of this machine' if parts.scheme == 'file' else None
        target = (here/unquote(parts.path)).resolve() if parts.path else page
        target = self.page_of.get(target, target)
        if target not in self.pages: return self.missing(target)
        heading = unquote(parts.fragment).lower()
        if not heading or heading.rpartition('.')[2].startswith('_'): return None  # private: to the page's top
        return None if heading in self.headings[target] else f'{target.name} has no such heading'

    def missing(self, path): return None if path.exists() else 'no such file or page'

    def faults(self, page):
        "What is wrong on a page, a line each"
        body = self.pages[page]
        for tag in body.find_all(['a', 'img', 'iframe', 'video', 'source']):
            link = tag.get('href') or tag.get('src') or ''
            why = 'anchor-link' not in tag.get('class', []) and self.leads_nowhere(page, link)
            if why: yield f'{link[:80]}: {why}'
        if any(not image.get('alt') for image in body.find_all('img')): yield 'a picture without a text'
        yield from unresolved(body)


def unresolved(body):
    "References that stayed as they were written"
    prose = BeautifulSoup(str(body), 'html.parser')
    for tag in prose.find_all(['pre', 'code', 'script', 'style']): tag.decompose()
    text, labels = prose.get_text(' '), {tag['id'] for tag in body.find_all(id=True)}
    for name in re.findall(r'(?<![\w.])@((?:fig|tbl|eq|sec|lst)-[\w-]+)', text):
        if name not in labels: yield f'@{name}: nothing is labelled so'
    for left in re.findall(r'\S*\]\([\w./#-]+\)|\[[^\]\n]+\]\[[^\]\n]*\]', text): yield f'{left[:60]}: a link left as text'
    for name in {tag.get_text() for tag in body.find_all('code')}:
        if re.fullmatch(r'spatialavatar0(\.\w+)+', name) and not resolves(name): yield f'{name}: there is no such name'


@cache
def resolves(name):
    "Whether a dotted name is a module, or something in one"
    try: return bool(pkgutil.resolve_name(name))
    except (ImportError, AttributeError): return False


def main(out):
    with tempfile.TemporaryDirectory() as folder:
        top = project.copy_to(Path(folder).resolve()); os.chdir(top)
        from nbdev.serve import proc_nbs
        try: proc_nbs(n_workers=2, force=True)
        except Exception as error: sys.exit(f'the documentation could not run a cell\n{error}\n{error.__cause__}')
        site = Site(top)
        faults = [f'{page.relative_to(site.folder)}: {fault}' for page in site.pages for fault in site.faults(page)]
        if out: site.write(out)
        os.chdir(project.root)
    print(*faults, f'{len(site.pages)} pages, {len(faults)} faults' + (f', in {out}' if out else ''), sep='\n')
    return bool(faults)


if __name__ == '__main__': sys.exit(main(Path(sys.argv[1]).resolve() if sys.argv[1:] else None))
