"JupyterLab in a real browser: the tutorial runs, sliders and pictures obey keys and mouse, and a camera drives"
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
from cells import code
from PIL import Image
from project import nbs
from spatialavatar0.drive.video import head_camera
from spatialavatar0.drive.web import pull
from spatialavatar0.splat.avatar import Avatar
from test_web import decibel, drawn, pixels, screen

packages = [m for m in ('jupyterlab', 'anywidget', 'ipywidgets', 'mediapipe', 'skimage') if find_spec(m) is None]
lacking = browser.missing() or (f'not installed: {packages}' if packages else '')
pytestmark = pytest.mark.skipif(bool(lacking), reason=lacking)

TUTORIAL = nbs/'tutorials/01_first_avatar.ipynb'
CELLS = [
    'import json',
    'from spatialavatar0.drive.live import Live, eye, to_viewer',
    'from spatialavatar0.drive.take import Panel',
    'from spatialavatar0.drive.widget import avatar_panel',
    '''def write(name, what): Path(name).write_text(json.dumps(what))
avatar.save("a.safetensors")
w.observe(lambda e: write("said.json", w.values), "values")
write("said.json", w.values)''',
    '''panel = avatar_panel(avatar, size=120)
panel.watchers.append(lambda: write("panel.json", panel.orbit))
panel.studio(avatar)''',
    '''live = Live(head, to_viewer(w, head), settle=.1)
w.observe(lambda e: write("acting.json", dict(e["new"], n=len(live.took))), "acting")
eye(live)''']


def source(cell):
    "A cell of the tutorial, with a coarser grid: a browser without a graphics card draws it sooner"
    return cell.source.replace('size=192', 'size=96').replace('folder.cleanup()', '')


@pytest.fixture
def lab(tmp_path):
    "The address of a JupyterLab that serves a folder with the tutorial, which goes on with a panel and a camera"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    here = os.path.dirname(__file__)
    cells = [nbformat.v4.new_code_cell(c) for c in [*map(source, code(TUTORIAL)), *CELLS]]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(
        name='python3', display_name='python3', language='python'))), tmp_path/'a.ipynb')
    home = tmp_path/'home'
    tracker = home/'s/@jupyterlab/notebook-extension/tracker.jupyterlab-settings'
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # cells outside the window are there, too
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


def film(path, photo, n=12):
    "A film for the browser's camera: a photograph that moves a little"
    frames = [Image.fromarray(photo).resize((320, 320), box=(60 + k, 0, 380 + k, 320)) for k in range(n)]
    with open(path, 'wb') as f:
        for frame in frames: frame.save(f, 'JPEG', quality=90)
    return path


def said(path, want, seconds=60):
    "What the kernel wrote, once it is so"
    for _ in range(10*seconds):
        try:
            if want(found := json.loads(path.read_text())): return found
        except (OSError, ValueError): pass
        time.sleep(.1)
    raise TimeoutError(f'{path.name}: {path.read_text() if path.exists() else None}')


def run_all(page):
    calm = '''document.querySelectorAll(".jp-Notebook .jp-Cell").length >= 3 &&
        !!document.querySelector(".jp-Notebook-ExecutionIndicator[data-status=idle]")'''
    for _ in range(30):  # it says idle before the kernel comes, too
        page.wait(calm)
        time.sleep(.15)
    page.run('document.querySelector(".jp-Notebook .jp-Cell").click()')
    page.run('void jupyterapp.commands.execute("notebook:run-all-cells")')


def test_the_tutorial(lab, tmp_path):
    import skimage.data
    camera = ['--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream',
              f"--use-file-for-fake-video-capture={film(tmp_path/'film.mjpeg', skimage.data.astronaut())}"]
    with browser.Page(1300, 900, flags=camera) as page:
        page.open(lab, 'globalThis.jupyterapp && document.querySelectorAll(".jp-Notebook .jp-Cell").length >= 3', 90)
        run_all(page)
        page.wait('!!document.querySelector(".sav-eye button")', 600)
        page.wait('!!(globalThis.viewer = document.querySelector(".sav")?.viewer) && viewer.drawn > 0', 120)
        viewer_obeys(page, tmp_path)
        panel_obeys(page, tmp_path)
        camera_drives(page, tmp_path)
        page.run('void jupyterapp.commands.execute("docmanager:save")')
        for _ in range(100):
            if 'application/vnd.jupyter.widget-view' in (stored := (tmp_path/'a.ipynb').read_text()): break
            time.sleep(.1)
    assert 'application/vnd.jupyter.widget-view' in stored
    book = json.loads(stored)
    for output in (o for c in book['cells'] for o in c.get('outputs', [])): output.get('data', {}).pop('image/png', None)
    assert 'widgets' not in book['metadata'] and len(json.dumps(book)) < 100_000  # the state is not kept, pictures are


def viewer_obeys(page, folder):
    "Its pixels are those of `render`, a slider moved by keys changes them, and the kernel knows"
    avatar, values = Avatar.load(folder/'a.safetensors'), json.loads((folder/'said.json').read_text())
    assert values['jawOpen'] == .25  # as the tutorial left it
    camera = head_camera(avatar, 200, 200, yaw=20.)
    assert decibel(pixels(page, camera)[..., :3], drawn(avatar, pull(avatar, values), camera)) > 45
    page.run('''document.querySelector(".sav").scrollIntoView({block: "start"});
        document.querySelector(".sav [data-name=jawOpen]").focus()''')
    page.wait('viewer.status.textContent')
    box = page.run('(b => [b.x, b.y, b.right, b.bottom])(viewer.canvas.getBoundingClientRect())')
    before = screen(page, box)
    for _ in range(40): page.key('ArrowRight')
    said(folder/'said.json', lambda v: abs(v['jawOpen'] - .65) < 1e-9)
    page.wait('viewer.status.textContent.includes("open")')
    time.sleep(1)
    page.screenshot(folder/'viewer.png')
    assert np.abs(screen(page, box) - before).mean() > .1
    assert page.run('document.activeElement.dataset.name') == 'jawOpen'  # Lab did not take the key


def panel_obeys(page, folder):
    "Keys on a slider, and mouse, wheel and keys on the picture; each follows the other"
    picture = 'document.querySelector(".sav-picture")'
    page.wait(f'!!{picture}?.dataset.shown')
    page.run(f'{picture}.scrollIntoView({{block: "center"}})')
    handle = 'document.querySelectorAll(".noUi-handle")[0]'
    page.run(f'globalThis.first = {picture}.dataset.shown; {handle}.focus()')
    for _ in range(12): page.key('ArrowRight')  # a degree each
    yaw = said(folder/'panel.json', lambda o: o['yaw'] > 10)['yaw']
    page.wait(f'{picture}.dataset.shown !== first')
    x, y, right, bottom = page.run(f'(b => [b.x, b.y, b.right, b.bottom])({picture}.getBoundingClientRect())')
    cx, cy = (x + right)/2, (y + bottom)/2
    page.drag((cx, cy), (cx + 10, cy), (cx + 20, cy), (cx + 20, cy))
    turned = said(folder/'panel.json', lambda o: o['yaw'] < yaw - 20)
    page.wait(f'Math.abs({handle}.getAttribute("aria-valuenow") - {turned["yaw"]}) < 4')
    page.send('Input.dispatchMouseEvent', type='mouseWheel', x=cx, y=cy, deltaX=0, deltaY=-120)
    said(folder/'panel.json', lambda o: o['zoom'] > 1.1)
    page.run(f'{picture}.focus()')
    page.key('0')
    said(folder/'panel.json', lambda o: (o['yaw'], o['zoom']) == (0, 1))
    page.wait(f'{picture}.width === 120')  # sharp again
    page.screenshot(folder/'panel.png')


def camera_drives(page, folder):
    "The browser's camera, which is a film, moves the avatar in the viewer"
    page.run('document.querySelector(".sav-eye").scrollIntoView({block: "center"}); '
             'document.querySelector(".sav-eye button").click()')
    said(folder/'acting.json', lambda a: a['n'] > 12, 120)
    page.wait('Object.keys(viewer.acting).length > 3')
    page.wait('document.querySelector(".sav-eye-status").textContent.includes("live")')
    assert float(page.run('document.querySelector(".sav-eye").dataset.milliseconds')) > 0
    page.screenshot(folder/'eye.png')
    page.run('document.querySelector(".sav-eye button").click()')
