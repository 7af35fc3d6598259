"""Links from names in backticks to their documentation, where it is certain whose names they are

nbdev links every name that some module defines, so that `where`, which is torch's, would lead to a helper of the
report. Here a name leads to what the notebook itself defines or imports; a name that no English word looks like
(`UVLayout`, `aspect_ratio`), to the only module that has it; and a whole one, `spatialavatar0.head.uv.UVLayout`, always."""
import re
from functools import cache

from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor

LIB = 'spatialavatar0'
TICKED = re.compile(r'(?<![\[`])`([^`\s]+?)(?:\(\))?`(?![\]`])')  # and not part of a link that is written out


@cache
def defined():
    "Name -> the modules that define it"
    found = {}
    for module, names in NbdevLookup().entries[LIB]['syms'].items():
        for name in names: found.setdefault(name.removeprefix(f'{module}.'), []).append(module)
    return found


def imported(source):
    "(name, module) of what a cell imports from the library"
    for module, names in re.findall(rf'^from ({LIB}[\w.]*) import (.+)$', source, flags=re.M):
        for name in re.split(r'\s*,\s*', names): yield name.rpartition(' as ')[2].strip(), module


class Links(Processor):
    "In place of nbdev's `add_links`"
    def __init__(self, nb):
        super().__init__(nb)
        self.module, self.imports = None, {}
        for cell in nb.cells:
            if cell.cell_type != 'code': continue
            if said := cell.directives_.get('default_exp'): self.module = f'{LIB}.{said[0]}'
            self.imports.update(imported(cell.source))

    def whole(self, name):
        "The name with its module, or nothing where that is not certain"
        if name.startswith(f'{LIB}.'): return name
        homes, first = defined().get(name, []), name.partition('.')[0]
        for module in (self.module, self.imports.get(first)):
            if module in homes: return f'{module}.{name}'
        if len(homes) == 1 and re.search('[A-Z_]', first): return f'{homes[0]}.{name}'

    def link(self, match):
        whole = self.whole(match[1])
        to = whole and NbdevLookup().doc(whole)
        return f"[{match[0]}]({to})" if to else match[0]

    def cell(self, cell):
        if cell.cell_type != 'markdown': return
        lines, fenced = cell.source.splitlines(), False
        for i, line in enumerate(lines):
            if line.startswith('```'): fenced = not fenced
            elif not fenced and not line.startswith('    '): lines[i] = TICKED.sub(self.link, line)
        cell.source = '\n'.join(lines)
