"A film from end to end: killed and gone on with, turned on its side, cut, of uneven pace; made-up people and an astronaut"
import math, os, signal, subprocess, sys, time
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip('av')
pytest.importorskip('mediapipe')
skimage_data = pytest.importorskip('skimage.data')

from spatialavatar0.clip.clip import Clip
from spatialavatar0.clip.image import Square
from spatialavatar0.core import UserError
from spatialavatar0.head.model import open_head
from spatialavatar0.track.film import track_video
from spatialavatar0.track.matte_network import onnx_bytes, onnx_graph
from spatialavatar0.track.track import track
from spatialavatar0.track.video import cut_bytes


def shoot(path, pictures, times=None):
    "An MP4; times in milliseconds"
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=1000)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], 'yuv420p'
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        stream.options = {'crf': '12'}
        for n, a in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(a), format='rgb24')
            frame.pts, frame.time_base = 40*n if times is None else times[n], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def walk(n, size=192):
    "An astronaut in front of a moving camera"
    photo = skimage_data.astronaut()
    return [cut_bytes(photo, Square(225 + 25*math.sin(.4*k), 150, 290 - k), size) for k in range(n)]


def turn_header(path, a, b, c, d):
    "Write a display matrix into an MP4"
    data = bytearray(path.read_bytes())
    at = data.index(b'tkhd') + 4 + 4 + 20 + 16
    for k, x in enumerate((a, b, 0, c, d, 0)):
        data[at + 4*k:at + 4*k + 4] = int(x*0x10000).to_bytes(4, 'big', signed=True)
    path.write_bytes(data)
    return path


def growing(path):
    "A recurrent matting network that finds a person everywhere: 1 - 4^-t in the t-th frame that it remembers"
    maps = ('float32', ('n', 'c', 'y', 'x'))
    nodes = [('Conv', ['src', 'w', 'b'], ['one']), ('Mul', ['r1i', 'quarter'], ['kept']),
             ('Add', ['one', 'kept'], ['r1o']), ('Identity', ['r1o'], ['pha'])]
    constants = dict(w=np.zeros((1, 3, 1, 1), np.float32), b=np.float32([.75]), quarter=np.float32([.25]))
    path.write_bytes(onnx_bytes(onnx_graph(nodes, dict(src=('float32', (1, 3, 'h', 'w')), r1i=maps),
                                           dict(pha=maps, r1o=maps), constants)))
    return path


def test_static_landmarks_are_still(tmp_path):
    "Of a still picture with the noise of a camera, landmarks of the head move by less than half a pixel"
    still, noise = walk(1, 320)[0], np.random.default_rng(0)
    film = [(still + noise.normal(0, 4, still.shape)).clip(0, 255).astype(np.uint8) for _ in range(14)]
    command = 'import sys; from spatialavatar0.cli import main; sys.exit(main(sys.argv[1:]))'
    words = 'track', str(shoot(tmp_path/'still.mp4', film)), '-o', str(tmp_path/'clip'), '--size', '256'
    subprocess.run([sys.executable, '-c', command, *words], check=True, capture_output=True)  # nothing before it
    clip = Clip(tmp_path/'clip', open_head())
    head = clip.head
    marks = head.landmarks(head.vertices(clip.codes()))
    xy = np.stack([clip.camera(i).project(marks[i])[0].numpy() for i in range(len(clip))])
    size = np.ptp(xy[0], 0).max()/512
    rms = math.sqrt((((xy - xy.mean(0))/size)**2).sum(-1).mean())
    assert rms < .5, rms


def test_phone_on_its_side(tmp_path):
    "A film that lies on its side and says so is the film upright"
    upright = track_video(shoot(tmp_path/'up.mp4', walk(4)), tmp_path/'up', size=128)
    lying = [np.rot90(a) for a in walk(4)]  # anticlockwise: to be turned clockwise
    turned = track_video(turn_header(shoot(tmp_path/'side.mp4', lying), 0, 1, -1, 0), tmp_path/'side', size=128)
    assert abs(upright.codes().pose - turned.codes().pose).max() < .05
    assert abs(upright.image(2)[0] - turned.image(2)[0]).mean() < .02


def test_shots_and_uneven_times(tmp_path):
    "A cut parts a film in two clips; uneven times leave empty ticks, not wrong ones"
    cat = cut_bytes(skimage_data.chelsea(), Square(200, 150, 280.), 192)
    far = [cut_bytes(skimage_data.astronaut(), Square(300, 190, 320 + k), 192) for k in range(11)]
    film = walk(14) + [cat]*3 + far
    times = np.cumsum([40]*len(film))
    times[6:] += 120  # the telephone was busy
    clip = track_video(shoot(tmp_path/'f.mp4', film, times.tolist()), tmp_path/'clip', size=96, shoulders='keep',
                       mattes=growing(tmp_path/'sure.onnx'))
    assert len(clip) == 14 and (tmp_path/'clip-shot2').is_dir()
    original = [int(r['timestep_index_original']) for r in clip.records]
    assert original == [0, 1, 2, 3, 4, 5, *range(9, 17)]
    alphas = lambda clip: [clip.image(i)[1][48, 48].item() for i in range(8)]
    sure = [1 - .25**t for t in range(1, 7)]
    assert alphas(clip) == pytest.approx([*sure, *sure[:2]], abs=.003)  # nothing is remembered over a gap,
    assert alphas(Clip(tmp_path/'clip-shot2'))[:6] == pytest.approx(sure, abs=.003)  # nor over a cut


def test_photometric(tmp_path, monkeypatch):
    "The same pictures, cameras and shape; codes under which an avatar of them looks more like them"
    from spatialavatar0 import cli
    from spatialavatar0.generate.create import create
    from spatialavatar0.refine import settle
    from spatialavatar0.refine.refine import refine, short
    from spatialavatar0.refine.run import seen
    film = shoot(tmp_path/'film.mp4', walk(9, 128))
    monkeypatch.setattr(settle, 'fitted', partial(settle.fitted, rounds=1, iterations=40, steps=4, side=64))
    for name, more in (('landmarks', []), ('pictures', ['--photometric'])):
        assert cli.main(['track', str(film), '-o', str(tmp_path/name), '--size', '128', *more]) in (0, None)
    a, b = (Clip(tmp_path/name, open_head()) for name in ('landmarks', 'pictures'))
    for x, y in zip(a, b, strict=True):
        assert (x.image - y.image).abs().max() == 0 and (x.camera.K == y.camera.K).all()
        assert (x.codes.shape == y.codes.shape).all() and (x.codes.translation != y.codes.translation).any()
    avatar = refine(create(a, size=128), [*a, *b], short(150))
    place = lambda f: avatar.head.vertices(f.codes.replace(shape=avatar.shape))
    likeness = [sum(seen(avatar, f, place(f))[-1] for f in clip) for clip in (a, b)]
    assert likeness[1] > likeness[0]


@pytest.mark.skipif(os.name == 'nt', reason='signals')
def test_killed_and_gone_on_with(tmp_path):
    "Killed in the middle, the same command goes on, and the clip is the one of an undisturbed run"
    film = shoot(tmp_path/'walk.mp4', walk(30))
    code = ('import sys; from spatialavatar0.track.film import track_video; '
            'track_video(sys.argv[1], sys.argv[2], size=96)')
    whole, again = tmp_path/'whole', tmp_path/'again'
    subprocess.run([sys.executable, '-c', code, film, whole], check=True, capture_output=True)
    process = subprocess.Popen([sys.executable, '-c', code, film, again], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    pictures = tmp_path/'again.part'/'shot1'/'fg_masks'
    for _ in range(2000):
        if process.poll() is not None or (pictures.is_dir() and len(list(pictures.glob('0*.png'))) > 8): break
        time.sleep(.02)
    if process.poll() is None: process.send_signal(signal.SIGKILL)
    process.wait()
    assert not again.exists() or process.returncode == 0
    subprocess.run([sys.executable, '-c', code, film, again], check=True, capture_output=True)
    assert not (tmp_path/'again.part').exists()
    from PIL import Image
    for file in sorted(p.relative_to(whole) for p in whole.rglob('*.png')):
        a, b = (np.asarray(Image.open(f/file), float) for f in (whole, again))
        assert abs(a - b).mean() < 2, file
    for file in (whole/'flame_param').iterdir():
        a, b = (np.load(f/'flame_param'/file.name)['expr'] for f in (whole, again))
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_wrong_films(tmp_path):
    "One line that names the file"
    (tmp_path/'text.mp4').write_text('hello')
    broken = tmp_path/'broken.mp4'
    broken.write_bytes(shoot(tmp_path/'good.mp4', walk(3)).read_bytes()[:700])
    for path in (tmp_path/'text.mp4', broken, tmp_path/'no.mp4'):
        with pytest.raises(UserError, match=path.name): track(path, tmp_path/'clip')
    assert not (tmp_path/'clip').exists()
    with pytest.raises(UserError, match='say where'): track(tmp_path/'good.mp4')
