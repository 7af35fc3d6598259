"The command line on what people feed it: it works, or it ends with one line and status 2"
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from spatialavatar0.cli import main

skimage = pytest.importorskip('skimage.data')
pytest.importorskip('mediapipe')


@pytest.fixture(scope='module')
def face():
    "A portrait, (512,512,3) bytes"
    return skimage.astronaut()


def grey(picture): return picture @ np.array([.299, .587, .114])


def crowd(face):
    "Five faces of different sizes on one picture"
    page = Image.new('RGB', (1000, 640), (128, 128, 128))
    head = Image.fromarray(face).crop((120, 0, 330, 230))
    for k, (x, y) in zip((1.6, 1.1, .9, .8, .7), ((10, 10), (400, 20), (700, 20), (420, 350), (700, 350))):
        page.paste(head.resize((round(210*k), round(230*k))), (x, y))
    return page


def small(face):
    "A face of 20 pixels"
    page = Image.new('RGB', (512, 512), (90, 110, 90))
    page.paste(Image.fromarray(face).resize((100, 100), Image.Resampling.LANCZOS), (200, 200))
    return page


def turned(face):
    "Stored on its side, with a note to turn it"
    picture = Image.fromarray(np.rot90(face, 1).copy())
    picture.getexif()[0x0112] = 6
    return picture


def clear(face):
    "Nothing left and right of the person"
    alpha = np.zeros(face.shape[:2], np.uint8)
    alpha[:, 60:470] = 255
    return Image.fromarray(np.dstack([face, alpha]))


works = {
    'plain.png': Image.fromarray,
    'grey.png': lambda f: Image.fromarray(grey(f).round().astype(np.uint8)),
    'sixteen.png': lambda f: Image.fromarray((grey(f)*257).round().astype(np.uint16)),
    'turned.jpg': turned,
    'clear.png': clear,
    'crowd.png': crowd,
}
fails = {
    'small.png': (small, 'too small'),
    'nobody.png': (lambda f: Image.fromarray(skimage.coffee()), 'no face found'),
    'noise.png': (lambda f: Image.fromarray(np.random.default_rng(0).integers(0, 256, f.shape, np.uint8)), 'no face'),
    'dot.png': (lambda f: Image.new('RGB', (1, 1)), 'no face'),
}


def run(capfd, *words):
    "Status, and the lines of both streams, the C libraries' included"
    try: status = main([str(w) for w in words])
    except SystemExit as e: status = e.code
    sys.stdout.flush()
    out, err = capfd.readouterr()
    return status, out.splitlines(), err.splitlines()


def refused(result, *parts):
    status, out, err = result
    assert status == 2 and len(err) == 1 and err[0].startswith('spatialavatar0'), result
    for part in parts: assert part in err[0]


@pytest.mark.parametrize('name', works)
def test_pictures_that_work(name, face, tmp_path, capfd):
    picture = works[name](face)
    picture.save(tmp_path/name, **({'exif': picture.getexif(), 'quality': 95} if name == 'turned.jpg' else {}))
    status, out, err = run(capfd, 'track', tmp_path/name, '-o', tmp_path/'clip', '--size', 128)
    assert status == 0, err
    assert 'clip' in out[-1] and (tmp_path/'clip'/'transforms.json').exists()
    if name == 'crowd.png': assert len(err) == 1 and '5 faces' in err[0]
    else: assert err == []


@pytest.mark.parametrize('name', fails)
def test_pictures_that_do_not(name, face, tmp_path, capfd):
    make, what = fails[name]
    make(face).save(tmp_path/name)
    refused(run(capfd, 'track', tmp_path/name, '-o', tmp_path/'clip'), name, what)
    assert os.listdir(tmp_path) == [name]


def test_files_that_are_no_pictures(face, tmp_path, capfd):
    (tmp_path/'text.jpg').write_text('dear diary')
    (tmp_path/'empty.png').touch()
    Image.fromarray(face).save(tmp_path/'whole.png')
    (tmp_path/'half.png').write_bytes((tmp_path/'whole.png').read_bytes()[:90_000])
    (tmp_path/'folder').mkdir()
    for name in ('text.jpg', 'empty.png', 'half.png', 'nowhere.jpg', 'folder'):
        for verb in (['track', tmp_path/name, '-o', tmp_path/'clip'],
                     ['create', tmp_path/name, '-o', tmp_path/'me.safetensors'],
                     ['demo', '--portrait', tmp_path/name, '--out', tmp_path/'out']):
            refused(run(capfd, *verb), name)
    assert not {'clip', 'me.safetensors'} & set(os.listdir(tmp_path))


def test_places_where_nothing_can_be_written(face, tmp_path, capfd):
    Image.fromarray(face).save(tmp_path/'me.png')
    (tmp_path/'thesis').mkdir()
    (tmp_path/'thesis'/'chapter.tex').touch()
    refused(run(capfd, 'track', tmp_path/'me.png', '-o', tmp_path/'no'/'clip'), 'does not exist')
    refused(run(capfd, 'track', tmp_path/'me.png', '-o', tmp_path/'thesis'), 'thesis')
    refused(run(capfd, 'track', tmp_path/'me.png', '-o', tmp_path/'new', '--photometric'), 'leave out --phot')
    refused(run(capfd, 'track', tmp_path/'me.png', '-o', tmp_path/'me.png'), 'me.png')
    refused(run(capfd, 'create', tmp_path/'me.png', '-o', tmp_path/'me.ply'), 'me.ply')
    assert sorted(os.listdir(tmp_path)) == ['me.png', 'thesis'] and os.listdir(tmp_path/'thesis') == ['chapter.tex']


def test_words_that_are_wrong(capfd):
    for words in ([], ['dance'], ['track'], ['track', 'a.png'], ['create', 'a', '-o', 'b', '-k', '5'],
                  ['drive', 'a.safetensors'], ['export', 'a', '--to', 'fbx', '-o', 'b'], ['info'],
                  ['refine', 'a', 'b', '-o', 'c', '--iterations', 'many']):
        refused(run(capfd, *words))


def test_help_imports_nothing_heavy():
    script = ('import sys, spatialavatar0.cli as c\n'
              'try: c.main(["--help"])\n'
              'except SystemExit: pass\n'
              'heavy = {"torch", "numpy", "numba", "mediapipe", "av"} & set(sys.modules)\n'
              'sys.exit(str(heavy) if heavy else 0)')
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'demo' in done.stdout
