"Each notebook is a test, run in a process of its own, without the cells that a flag of `tst_flags` marks"
import os
import subprocess
import sys

import pytest
from project import nbs, notebooks, root

run = """
import sys; from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
cfg = get_config()
sys.exit(not test_nb(Path(sys.argv[1]), skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path)[0])
"""
quiet = dict(OMP_NUM_THREADS='1', MPLBACKEND='agg', TQDM_DISABLE='1', WANDB_MODE='disabled')


@pytest.mark.parametrize('nb', notebooks(), ids=lambda p: str(p.relative_to(nbs)))
def test_notebook(nb):
    done = subprocess.run([sys.executable, '-c', run, str(nb)], cwd=root, env={**os.environ, **quiet},
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-6000:]
