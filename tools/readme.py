"README.md out of nbs/index.ipynb, without quarto"
import posixpath
import re
import sys
from pathlib import Path

import nbformat
import yaml
from execnb.nbio import nb2str, read_nb
from nbconvert import MarkdownExporter
from nbdev.processors import FilterDefaults


def from_root(link, top):
    "A link of nbs/index.ipynb, as it is written in the file above it; not to a symlink, which GitHub does not follow"
    if re.match(r'[a-z]+:|#', link): return link
    path = posixpath.normpath(posixpath.join('nbs', link))
    return (top/path).resolve().relative_to(top).as_posix() if (top/path).is_symlink() else path


def readme(index):
    "The text of README.md"
    top = Path(index).resolve().parent.parent
    nb = read_nb(index); FilterDefaults()(nb)        # nbdev's own: hides cells, links names in backticks
    nb = nbformat.reads(nb2str(nb), 4)
    nb.metadata.language_info = {'name': 'python'}
    front = yaml.safe_load(nb.cells[0].source.strip('-\n'))
    nb.cells[0] = nbformat.v4.new_markdown_cell(f"# {front['title']}\n\n> {front['description']}")
    for cell in nb.cells:
        if cell.cell_type == 'code': cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
        else: cell.source = re.sub(r'^<iframe.*?</iframe>\n?', '', cell.source, flags=re.M)  # GitHub shows none
    text, resources = MarkdownExporter().from_notebook_node(nb)
    if resources.get('outputs'): raise SystemExit(f'{index}: it stores a picture; link to a file instead')
    text = re.sub(r'(\]\()([^)\s]+)', lambda m: m[1] + from_root(m[2], top), text)
    text = re.sub(r'((?:src|href)=")([^"]+)', lambda m: m[1] + from_root(m[2], top), text)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


if __name__ == '__main__': sys.stdout.write(readme(sys.argv[1]))
