"JupyterLab in a real browser: Run All, a slider moved by keyboard, and the kernel knows"
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import browser
import nbformat
import numpy as np
import pytest
from spatialavatar0.head.model import open_head
from test_web import decibel, drawn, head_camera, mottled, pixels, screen

packages = [m for m in ('jupyterlab', 'anywidget', 'ipywidgets') if find_spec(m) is None]
lacking = browser.missing() or (f'not installed: {packages}' if packages else '')
pytestmark = pytest.mark.skipif(bool(lacking), reason=lacking)

CELLS = ['''import json, sys
from pathlib import Path
sys.path.insert(0, "TESTS")
from test_web import mottled, open_head
from spatialavatar0.drive.widget import avatar_panel, viewer''', '''avatar = mottled(open_head(), 96)
w = viewer(avatar, height=420)
w.observe(lambda e: Path("said.json").write_text(json.dumps(w.values)), "values")
w''', 'panel = avatar_panel(avatar, size=120)\npanel.widget()']


@pytest.fixture
def lab(tmp_path):
    "The address of a JupyterLab that serves a folder with one notebook"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    here = os.path.dirname(__file__)
    cells = [nbformat.v4.new_code_cell(c.replace('TESTS', here)) for c in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(
        name='python3', display_name='python3', language='python'))), tmp_path/'a.ipynb')
    home = tmp_path/'home'
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'JUPYTER_CONFIG_DIR': str(home), 'JUPYTER_RUNTIME_DIR': str(home/'run'),
           'JUPYTERLAB_SETTINGS_DIR': str(home/'s'), 'JUPYTERLAB_WORKSPACES_DIR': str(home/'w'),
           'PYTHONPATH': os.pathsep.join([os.path.dirname(here), *filter(None, [os.environ.get('PYTHONPATH')])])}
    server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1',
                               f'--port={port}', '--IdentityProvider.token=', '--LabApp.news_url=None',
                               '--LabApp.expose_app_in_browser=True', f'--ServerApp.root_dir={tmp_path}'],
                              env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    url, opener = f'http://127.0.0.1:{port}', build_opener(ProxyHandler({}))
    try:
        for _ in range(300):
            try: opener.open(f'{url}/api').read(); break
            except URLError: time.sleep(.2)
        yield f'{url}/lab/tree/a.ipynb'
    finally:
        server.terminate()
        try: server.wait(15)
        except subprocess.TimeoutExpired: server.kill()
        shutil.rmtree(home, ignore_errors=True)


def test_run_all_and_a_slider(lab, tmp_path):
    with browser.Page(1300, 900) as page:
        page.open(lab, 'globalThis.jupyterapp && document.querySelectorAll(".jp-Notebook .jp-Cell").length >= 3', 90)
        calm = '''document.querySelectorAll(".jp-Notebook .jp-Cell").length >= 3 &&
            !!document.querySelector(".jp-Notebook-ExecutionIndicator[data-status=idle]")'''
        for _ in range(30):  # it says idle before the kernel comes, too
            page.wait(calm)
            time.sleep(.15)
        page.run('document.querySelector(".jp-Notebook .jp-Cell").click()')
        page.run('void jupyterapp.commands.execute("notebook:run-all-cells")')
        page.wait('!!(globalThis.viewer = document.querySelector(".sav")?.viewer) && viewer.drawn > 0', 60)
        avatar = mottled(open_head(), 96)
        camera = head_camera(avatar, 200, 200, yaw=20.)
        assert decibel(pixels(page, camera)[..., :3], drawn(avatar, avatar.codes(), camera)) > 45

        page.run('''document.querySelector(".sav").scrollIntoView({block: "start"});
            document.querySelector(".sav [data-name=jawOpen]").focus()''')
        page.wait('viewer.status.textContent')
        box = page.run('(b => [b.x, b.y, b.right, b.bottom])(viewer.canvas.getBoundingClientRect())')
        before = screen(page, box)
        for _ in range(60): page.key('ArrowRight')
        page.wait('viewer.status.textContent.includes("open")')
        assert np.abs(screen(page, box) - before).mean() > .3
        assert page.run('document.activeElement.dataset.name') == 'jawOpen'  # Lab did not take the key
        said = lambda: json.loads((tmp_path/'said.json').read_text() or '{}').get('jawOpen') == .6
        assert any((tmp_path/'said.json').exists() and said() or time.sleep(.1) for _ in range(200))

        image = 'document.querySelector(".jupyter-widgets img")'
        page.wait(f'!!{image}')
        page.run(f'globalThis.first = {image}.src; document.querySelectorAll(".noUi-handle")[0].focus()')
        for _ in range(5): page.key('ArrowRight')
        page.wait(f'{image}.src !== first')
        page.run('void jupyterapp.commands.execute("docmanager:save")')
        for _ in range(100):
            if 'application/vnd.jupyter.widget-view' in (stored := (tmp_path/'a.ipynb').read_text()): break
            time.sleep(.1)
    assert 'application/vnd.jupyter.widget-view' in stored
    assert 'widgets' not in json.loads(stored)['metadata'] and len(stored) < 60_000  # the state is not kept

