"A notebook as the tests see it: its cells, and what is exported"
import ast
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

exporting = {'export', 'exports', 'exporti'}
imports = ast.Import, ast.ImportFrom


@dataclass
class Cell:
    kind: str                                    # 'code', 'markdown' or 'raw'
    source: str
    outputs: list = field(default_factory=list)

    def __str__(self): return next((line for line in self.source.splitlines() if not line.startswith('#|')), '')

    @property
    def directives(self):
        "Directive -> its argument"
        found = re.findall(r'^#\|\s*([\w-]+):?[ ]*(.*)$', self.source, flags=re.M)
        return dict(found) if self.kind == 'code' else {}

    @property
    def exported(self): return bool(exporting & self.directives.keys())

    @property
    def tree(self):
        "The parsed code, without magics, by the grammar of the oldest Python"
        return ast.parse(re.sub(r'^(\s*)[%!].*$', r'\1pass', self.source, flags=re.M), feature_version=(3, 10))

    @property
    def statements(self):
        "The statements at top level: a text alone is a comment"
        return [node for node in self.tree.body
                if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]

    @property
    def tests(self):
        "Whether something is asserted"
        return self.kind == 'code' and not self.exported and bool(
            re.search(r'^\s*assert\b|\btest_\w+\(|assert_\w+\(|gradcheck\(|^@given', self.source, flags=re.M))

    @property
    def lines(self):
        "Lines of code; a signature, with its documented arguments, counts as one, as does a class's head"
        keep = {i for i, line in enumerate(self.source.splitlines(), 1) if line.strip() and line[:2] != '#|'}
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                keep -= set(range(node.lineno + 1, node.body[0].lineno))
        return len(keep)


def read(path):
    "The cells of a notebook"
    return [Cell(c['cell_type'], ''.join(c['source']), c.get('outputs', []))
            for c in json.loads(Path(path).read_text(encoding='utf-8'))['cells']]


def code(path):
    "Its code cells, but for the last one, which exports"
    return [c for c in read(path) if c.kind == 'code' and 'nbdev_export(' not in c.source]


def imported(node, module):
    "The modules that an import statement in `module` (dotted, a list of parts) names"
    if isinstance(node, ast.Import): return [alias.name for alias in node.names]
    base = module[:-node.level] if node.level else []
    return ['.'.join([*base, *filter(None, [node.module])])]
