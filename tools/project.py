"Where things are, for the tools and the tests"
import shutil
from pathlib import Path

root = Path(__file__).resolve().parent.parent
lib, nbs = root/'spatialavatar0', root/'nbs'
generated = ['README.md', 'pyproject.toml', 'nbs', 'spatialavatar0']  # files and folders that tools write
scratch = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '_proc', '_docs', '.*')


def notebooks(top=nbs):
    "Every notebook but scratch, whose name or folder starts with `_` or `.`"
    return sorted(p for p in top.rglob('*.ipynb')
                  if not any(part[0] in '._' for part in p.relative_to(top).parts))


def pages(top=nbs):
    "Every page that is no notebook"
    return sorted(p for p in top.rglob('*.md') if not any(part[0] in '._' for part in p.relative_to(top).parts))


def copy_to(folder):
    "A copy of what the tools read and write, so that they never touch the working tree"
    for name in ['settings.ini', '_quarto.yml', 'CHANGELOG.md', 'data_cards', *generated]:
        source = root/name
        if source.is_dir(): shutil.copytree(source, folder/name, symlinks=True, ignore=scratch)
        else: shutil.copy2(source, folder/name)
    return folder
