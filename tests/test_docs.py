"The documentation: its pages without quarto, and the list of them"
import re
import subprocess
import sys

import yaml
from docs_check import sidebar
from project import nbs, notebooks, root


def test_pages():
    "Every page can be made, and nothing on it leads nowhere"
    done = subprocess.run([sys.executable, root/'tools/docs_check.py'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_every_notebook_is_in_the_sidebar():
    listed = [file for _, file in sidebar(nbs) if file]
    assert sorted(listed) == sorted(str(p.relative_to(nbs)) for p in notebooks()), '`make sync` lists them'
    assert (nbs/'_quarto.yml').resolve() == root/'_quarto.yml'


def test_workflows_pin_what_they_run():
    for path in (root/'.github/workflows').glob('*.yml'):
        jobs = yaml.safe_load(path.read_text())['jobs'].values()
        used = [step['uses'] for job in jobs for step in job['steps'] if 'uses' in step]
        assert used and all(re.fullmatch(r'[\w./-]+@[0-9a-f]{40}', action) for action in used), path.name
